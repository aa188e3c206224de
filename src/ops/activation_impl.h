// SPDX-License-Identifier: Apache-2.0
// What ActivationOp delegates to on a GPU. Arguments are checked before they get there.
#pragma once

#include <memory>

#include "backend_cpu/backend_cpu.h"
#include "moesaic/activation.h"

namespace moesaic::ops {

class ActivationImpl {
 public:
  virtual ~ActivationImpl() = default;
  virtual void run(const ActivationRun& run, const cpu::GateUpColumns& columns, void* stream) const = 0;
};

/// Plans, and loads the kernel. Throws Error.
std::unique_ptr<const ActivationImpl> make_cuda_activation(const Activation& activation, Device device,
                                                           const ModuleOptions& modules);

}  // namespace moesaic::ops
