// SPDX-License-Identifier: Apache-2.0
// What the C interface's opaque handles are.
#pragma once

#include <memory>

#include "moesaic/activation.h"
#include "moesaic/checkpoint.h"
#include "moesaic/gemm.h"
#include "moesaic/moe.h"
#include "moesaic/moesaic.h"
#include "moesaic/quantize.h"
#include "moesaic/route.h"

struct moesaic_moe {
  moesaic::FusedMoe moe;
};

struct moesaic_weights {
  moesaic::MoeWeights weights;
  moesaic::Device device;
  std::shared_ptr<const void> storage;  // of what was loaded or converted
};

struct moesaic_quantizer {
  moesaic::Quantizer quantizer;
  moesaic::QuantSpec spec;
  moesaic::Device device;
};

struct moesaic_router {
  moesaic::Router router;
  moesaic::Device device;
};

struct moesaic_activation_op {
  moesaic::ActivationOp op;
  moesaic::Device device;
};

struct moesaic_gemm {
  moesaic::Gemm gemm;
};

struct moesaic_memory {
  moesaic::Device device;
  void* data;
  std::shared_ptr<const void> owner;
};

struct moesaic_checkpoint {
  moesaic::Checkpoint checkpoint;
};
