// SPDX-License-Identifier: Apache-2.0
// Routing alone: logits (or given ids) -> ids and weights, and the rows of every expert in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moesaic/module.h"
#include "moesaic/moe.h"
#include "moesaic/tensor.h"

#pragma GCC visibility push(default)
namespace moesaic {

/// A router. S = top_k + shared_slots slots a token; L experts held (`experts`), rows are sorted for L + shared_slots.
struct RouterConfig {
  int num_experts = 0, top_k = 0;
  Routing routing;
  ExpertMap experts;           // whose rows are sorted; ids stay those of all E
  int shared_slots = 0;        // appended to every token: ids E, E + 1, ..., sorted behind the experts held
  float shared_weight = 1.0f;  // their weight
  int max_tokens = 8192;       // `run` refuses more
  Device device;
};

/// Arguments of one run. Memory is the caller's and on the router's device.
struct RouteRun {
  TensorView logits;          // [T, E] f32
  TensorView selection_bias;  // [E] f32 or empty: methods that have one
  TensorView token_ids;       // [T] i64 or i32: kHash
  TensorView token_experts;   // [vocabulary, k] i32: kHash
  TensorView given_ids;       // [T, S] i32 with given_weights [T, S] f32, instead of all of the above: only sorted
  TensorView given_weights;
  TensorView ids;      // [T, S] i32, written; falling selection score (kHash: the table's order), then shared slots
  TensorView weights;  // [T, S] f32, written
  // The rows in order of expert, then token and slot; all four or none. Rows are those of experts held.
  TensorView row_offsets;     // [L + shared_slots + 1] i32: rows [offsets[e], offsets[e + 1]) are local expert e's
  TensorView row_token;       // [T * S] i32; rows from row_offsets' last on are not written
  TensorView row_weight;      // [T * S] f32
  TensorView slot_row;        // [T, S] i32: row of a slot, -1: its expert is not held
  void* workspace = nullptr;  // any content
  std::size_t workspace_bytes = 0;
};

/// A router bound to a device; `run` is const and reentrant.
class Router {
 public:
  /// Checks, plans, and loads kernels on a GPU (there E + shared_slots <= 1,024 and S <= 32). Throws Error as
  /// FusedMoe::create.
  static Router create(const RouterConfig& config, const ModuleOptions& modules = {});

  Router(Router&&) noexcept;
  Router& operator=(Router&&) noexcept;
  ~Router();

  /// Workspace of a run of `tokens` tokens with sorted rows, bytes, 256-byte aligned; without them none is needed.
  std::size_t workspace_bytes(std::int64_t tokens) const;
  /// Enqueues; on a GPU only launches, capturable in a graph. T = 0 writes row_offsets alone.
  /// Throws Error(kInvalidArgument) before anything is enqueued.
  void run(const RouteRun& run, void* stream = nullptr) const;

  /// The kernels (row and config) of a run with sorted rows, in launch order; for the CPU its code path.
  std::vector<std::string> kernels(std::int64_t tokens) const;

 private:
  struct Impl;
  explicit Router(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace moesaic
#pragma GCC visibility pop
