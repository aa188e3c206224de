// SPDX-License-Identifier: Apache-2.0
// Which CUDA context is current to the calling thread, asked of the driver and not of the code under test.
#pragma once

namespace moesaic::testing {

/// The context, a CUcontext; nullptr: none is.
void* current_context();

/// A context of its own on a device, not the primary one: current to the calling thread for its lifetime.
class OtherContext {
 public:
  explicit OtherContext(int device);
  ~OtherContext();
  OtherContext(const OtherContext&) = delete;
  OtherContext& operator=(const OtherContext&) = delete;
  void* get() const { return context_; }

 private:
  void* context_ = nullptr;
};

}  // namespace moesaic::testing
