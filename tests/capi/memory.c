// SPDX-License-Identifier: Apache-2.0
// Memory of the library, and what recipes make their weights of, compiled as C11. Copies to a GPU: the Python tests.
#include "check.h"

void capi_memory(capi_data* data) {
  const DLDevice cpu = {kDLCPU, 0}, cuda = {kDLCUDA, 0}, other = {kDLVulkan, 0};
  moesaic_memory* memory = NULL;
  moesaic_weights *weights = capi_fused_weights(data), *copy = NULL;
  for (size_t bytes = 0; bytes < 5000; bytes = 3 * bytes + 1) {
    CHECK_OK(moesaic_memory_create(cpu, bytes, &memory));
    unsigned char* at = (unsigned char*)moesaic_memory_data(memory);
    CHECK(at != NULL && (uintptr_t)at % 256 == 0);
    memset(at, 0xee, bytes);
    moesaic_memory_destroy(memory);
  }
  CHECK_OK(moesaic_synchronize(cpu));
  CHECK(moesaic_memory_data(NULL) == NULL);
  moesaic_memory_destroy(NULL);
  CHECK_REFUSED(moesaic_memory_create(other, 1, &memory), MOESAIC_INVALID_ARGUMENT, "device");
  CHECK(memory == NULL);
  CHECK_REFUSED(moesaic_memory_create(cpu, 1, NULL), MOESAIC_INVALID_ARGUMENT, "NULL");
  CHECK_REFUSED(moesaic_synchronize(other), MOESAIC_INVALID_ARGUMENT, "device");
  CHECK_REFUSED(moesaic_weights_to_device(weights, cpu, &copy), MOESAIC_INVALID_ARGUMENT, "wanted a CUDA device");
  CHECK_REFUSED(moesaic_weights_to_device(NULL, cuda, &copy), MOESAIC_INVALID_ARGUMENT, "NULL");
  CHECK(copy == NULL);
  moesaic_weights_destroy(weights);
}

int capi_weight_format(const char* recipe, int group, int zero_points) {
  moesaic_quant_spec spec;
  int32_t quantized = -1;
  CHECK_OK(moesaic_quant_spec_init(&spec, sizeof(spec)));
  spec.format = MOESAIC_FP8_STATIC;
  CHECK_OK(moesaic_weight_spec(recipe, group, zero_points, &spec, &quantized));
  if (quantized == 0) {
    CHECK(spec.format == MOESAIC_FP8_STATIC);
    return -1;
  }
  CHECK(quantized == 1 && spec.layout == MOESAIC_LAYOUT_LINEAR);
  if (spec.format == MOESAIC_INT4) CHECK(spec.int4_group_size == group && spec.int4_zero_points == zero_points);
  CHECK_REFUSED(moesaic_weight_spec("bf17", 32, 0, &spec, &quantized), MOESAIC_INVALID_ARGUMENT, "bf17");
  CHECK_REFUSED(moesaic_weight_spec(NULL, 32, 0, &spec, &quantized), MOESAIC_INVALID_ARGUMENT, "recipe");
  CHECK_REFUSED(moesaic_weight_spec(recipe, 32, 0, &spec, NULL), MOESAIC_INVALID_ARGUMENT, "quantized");
  return spec.format;
}
