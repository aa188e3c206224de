// SPDX-License-Identifier: Apache-2.0
// A layer's run as a graph, replayed with inputs and routing that change from replay to replay.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "support/device_layer.h"
#include "support/poisoned_buffer.h"

namespace moesaic::testing {

/// Captures the layer's first run ever, then makes a pool of inputs with what the layer makes of each on its own.
class ReplayedLayer {
 public:
  ReplayedLayer(std::mt19937& rng, const DeviceLayer& layer, int tokens);

  /// Replays with inputs of the pool in pseudo-random order. Nothing waits between two replays, so that one that reads
  /// what the one before it left behind has its chance.
  void replay(int times, unsigned seed);
  /// Adds a test failure for the first replay whose bytes are not those of its input alone, and for writes behind
  /// memory.
  void expect_right() const;

 private:
  struct Input {
    PoisonedBuffer x, logits;           // [T, H] io type, [T, E] f32
    std::vector<unsigned char> output;  // [T, H] f32
  };
  void make_pool(std::mt19937& rng, const DeviceLayer& layer, int tokens);

  Device device_;
  PoisonedBuffer x_, logits_, out_, workspace_;
  cuda::Stream stream_;
  std::unique_ptr<const cuda::Graph> graph_;
  std::vector<Input> pool_;
  std::vector<std::size_t> order_;  // of the pool's inputs
  cuda::DeviceBuffer results_;      // [replays][T, H] f32
};

}  // namespace moesaic::testing
