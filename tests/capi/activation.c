// SPDX-License-Identifier: Apache-2.0
// The activation alone through the C interface, compiled as C11.
#include "check.h"

static const DLDevice kCpu = {kDLCPU, 0};

void capi_activation(capi_data* d, int kind, int order, float limit, int64_t outputs, float* y) {
  moesaic_activation_spec spec;
  moesaic_activation_run run;
  moesaic_activation_op* op = NULL;
  capi_tensor x, out;
  CHECK_OK(moesaic_activation_spec_init(&spec, sizeof(spec)));
  spec.activation = kind;
  spec.gate_up_order = order;
  spec.limit = limit;
  CHECK_OK(moesaic_activation_op_create(&spec, kCpu, NULL, &op));
  CHECK_OK(moesaic_activation_run_init(&run, sizeof(run)));
  capi_make(&x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  capi_make(&out, y, kDLFloat, 32, 2, kTokens, outputs, 0);
  run.x = &x.t;
  run.out = &out.t;
  CHECK_OK(moesaic_activation_op_run(op, &run, NULL));
  moesaic_activation_op_destroy(op);
}

void capi_wrong_activation_arguments(capi_data* d) {
  static float y[kTokens][kHidden];
  const DLDevice vulkan = {kDLVulkan, 0};
  moesaic_activation_spec spec;
  moesaic_activation_run run;
  moesaic_activation_op* op = NULL;
  capi_tensor x, out;
  CHECK_OK(moesaic_activation_spec_init(&spec, sizeof(spec)));
  CHECK_REFUSED(moesaic_activation_op_create(NULL, kCpu, NULL, &op), MOESAIC_INVALID_ARGUMENT, "spec is NULL");
  CHECK_REFUSED(moesaic_activation_op_create(&spec, kCpu, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "op is NULL");
  CHECK_REFUSED(moesaic_activation_op_create(&spec, vulkan, NULL, &op), MOESAIC_INVALID_ARGUMENT, "kDLCUDA");
  spec.activation = -1;
  CHECK_REFUSED(moesaic_activation_op_create(&spec, kCpu, NULL, &op), MOESAIC_INVALID_ARGUMENT, "activation is -1");
  spec.activation = MOESAIC_SWIGLU_STEP;
  spec.limit = -1.0f;
  CHECK_REFUSED(moesaic_activation_op_create(&spec, kCpu, NULL, &op), MOESAIC_INVALID_ARGUMENT, "limit");
  spec.limit = 1.0f;
  spec.gate_up_order = 4;
  CHECK_REFUSED(moesaic_activation_op_create(&spec, kCpu, NULL, &op), MOESAIC_INVALID_ARGUMENT, "gate_up_order is 4");
  spec.gate_up_order = MOESAIC_UP_FIRST;
  CHECK(op == NULL);
  CHECK_OK(moesaic_activation_op_create(&spec, kCpu, NULL, &op));
  CHECK_OK(moesaic_activation_run_init(&run, sizeof(run)));
  capi_make(&x, d->x, kDLBfloat, 16, 2, kTokens, kHidden, 0);
  capi_make(&out, y, kDLFloat, 32, 2, kTokens, kHidden / 2, 0);
#define REFUSED_RUN(word) CHECK_REFUSED(moesaic_activation_op_run(op, &run, NULL), MOESAIC_INVALID_ARGUMENT, word)
  REFUSED_RUN("run.x is NULL");
  run.x = &x.t;
  REFUSED_RUN("run.out is NULL");
  run.out = &out.t;
  CHECK_REFUSED(moesaic_activation_op_run(NULL, &run, NULL), MOESAIC_INVALID_ARGUMENT, "op is NULL");
  CHECK_REFUSED(moesaic_activation_op_run(op, NULL, NULL), MOESAIC_INVALID_ARGUMENT, "run is NULL");
  out.shape[1] = kHidden;
  REFUSED_RUN("x is [7, 64], wanted [7, 128]");
  out.shape[1] = kHidden / 2;
  out.t.dtype.bits = 64;
  REFUSED_RUN("out is f64");
  out.t.dtype.bits = 32;
  x.t.device.device_type = kDLCUDA;
  REFUSED_RUN("run.x is on cuda:0");
  x.t.device.device_type = kDLCPU;
  x.strides[0] = 1;
  x.strides[1] = kTokens;
  x.t.strides = x.strides;
  REFUSED_RUN("stride 7 in dimension 1");
  x.t.strides = NULL;
  CHECK(y[0][0] == 0);
  CHECK_OK(moesaic_activation_op_run(op, &run, NULL));
  CHECK(y[0][0] != 0);
  moesaic_activation_op_destroy(op);
}
