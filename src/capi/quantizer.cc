// SPDX-License-Identifier: Apache-2.0
// Quantisers of the C interface.
#include <optional>

#include "capi/handles.h"
#include "capi/structs.h"
#include "capi/tensors.h"

namespace moesaic::capi {
namespace {

QuantizeRun read_run(const char* operation, const moesaic_quantizer& q, const moesaic_quantize_run* run) {
  const moesaic_quantize_run r = read_struct(operation, "run", run);
  const QuantTraits traits = quant_traits(q.spec);
  TensorReader reader(operation, q.device);
  QuantizeRun to;
  check_given(operation, "run.x", r.x, "a tensor");
  to.x = reader.compact("run.x", r.x);
  to.codes = reader.compact("run.codes", r.codes, traits.codes);
  to.scales = reader.compact("run.scales", r.scales, std::nullopt, traits.scales);
  to.zeros = reader.compact("run.zeros", r.zeros);
  to.global_scale = reader.compact("run.global_scale", r.global_scale);
  to.row_scales = reader.compact("run.row_scales", r.row_scales);
  to.group_offsets = reader.compact("run.group_offsets", r.group_offsets);
  return to;
}

// Scales in either order.
struct ScalePair {
  TensorView linear, layout;
};

ScalePair read_scales(const char* operation, const moesaic_quantizer* q, const DLTensor* linear,
                      const DLTensor* layout) {
  check_given(operation, "quantizer", q, "a handle");
  check_given(operation, "linear", linear, "a tensor");
  check_given(operation, "layout_scales", layout, "a tensor");
  const ScaleFormat scales = quant_traits(q->spec).scales;
  TensorReader reader(operation, q->device);
  return {reader.compact("linear", linear, std::nullopt, scales),
          reader.compact("layout_scales", layout, std::nullopt, scales)};
}

}  // namespace
}  // namespace moesaic::capi

// The functions of the C interface.
using namespace moesaic;        // NOLINT(google-build-using-namespace): C names outside of every namespace
using namespace moesaic::capi;  // NOLINT(google-build-using-namespace)

moesaic_status moesaic_quantizer_create(const moesaic_quant_spec* spec, DLDevice device,
                                        const moesaic_module_options* modules, moesaic_quantizer** quantizer) {
  constexpr const char* kOperation = "quantizer_create";
  return guarded(kOperation, [&] {
    check_given(kOperation, "quantizer", quantizer, "where the handle goes");
    *quantizer = nullptr;
    const QuantizerSpec s = to_quant_spec(kOperation, spec);
    const Device where = to_device(kOperation, device);
    *quantizer = new moesaic_quantizer{
        Quantizer::create(s.spec, where, to_modules(kOperation, modules), s.activation ? &*s.activation : nullptr),
        s.spec, where};
  });
}

void moesaic_quantizer_destroy(moesaic_quantizer* quantizer) { delete quantizer; }

moesaic_status moesaic_quant_sizes_of(const moesaic_quant_spec* spec, int64_t rows, int64_t cols,
                                      moesaic_quant_sizes* sizes) {
  constexpr const char* kOperation = "quant_sizes_of";
  return guarded(kOperation, [&] {
    read_struct(kOperation, "sizes", sizes);
    const QuantSizes s = quant_sizes(to_quant_spec(kOperation, spec).spec, rows, cols);
    const moesaic_quant_sizes here{
        sizeof(moesaic_quant_sizes), s.code_bytes, s.scale_rows, s.scale_cols, s.scale_bytes, s.zero_bytes};
    write_struct(here, sizes, sizes->struct_size);
  });
}

moesaic_status moesaic_weight_spec(const char* recipe, int32_t int4_group_size, int32_t int4_zero_points,
                                   moesaic_quant_spec* spec, int32_t* quantized) {
  constexpr const char* kOperation = "weight_spec";
  return guarded(kOperation, [&] {
    check_given(kOperation, "recipe", recipe, "a name of `moesaic recipes`");
    check_given(kOperation, "quantized", quantized, "where the answer goes");
    moesaic_quant_spec here = read_struct(kOperation, "spec", spec);
    const std::optional<QuantSpec> wanted = weight_spec(recipe, {int4_group_size, int4_zero_points != 0, false});
    *quantized = wanted ? 1 : 0;
    if (!wanted) return;
    here.format = static_cast<int32_t>(wanted->format);
    here.layout = static_cast<int32_t>(wanted->layout);
    here.e8m0 = static_cast<int32_t>(wanted->e8m0);
    here.int4_group_size = wanted->int4.size;
    here.int4_zero_points = wanted->int4.zero_points ? 1 : 0;
    write_struct(here, spec, spec->struct_size);
  });
}

moesaic_status moesaic_quantizer_quantize(const moesaic_quantizer* quantizer, const moesaic_quantize_run* run,
                                          void* stream) {
  constexpr const char* kOperation = "quantizer_quantize";
  return guarded(kOperation, [&] {
    check_given(kOperation, "quantizer", quantizer, "a handle");
    quantizer->quantizer.quantize(read_run(kOperation, *quantizer, run), stream);
  });
}

moesaic_status moesaic_quantizer_dequantize(const moesaic_quantizer* quantizer, const moesaic_quantize_run* run,
                                            void* stream) {
  constexpr const char* kOperation = "quantizer_dequantize";
  return guarded(kOperation, [&] {
    check_given(kOperation, "quantizer", quantizer, "a handle");
    quantizer->quantizer.dequantize(read_run(kOperation, *quantizer, run), stream);
  });
}

moesaic_status moesaic_quantizer_swizzle(const moesaic_quantizer* quantizer, const DLTensor* linear,
                                         const DLTensor* layout_scales, void* stream) {
  constexpr const char* kOperation = "quantizer_swizzle";
  return guarded(kOperation, [&] {
    const ScalePair pair = read_scales(kOperation, quantizer, linear, layout_scales);
    quantizer->quantizer.swizzle_scales(pair.linear, pair.layout, stream);
  });
}

moesaic_status moesaic_quantizer_unswizzle(const moesaic_quantizer* quantizer, const DLTensor* layout_scales,
                                           const DLTensor* linear, void* stream) {
  constexpr const char* kOperation = "quantizer_unswizzle";
  return guarded(kOperation, [&] {
    const ScalePair pair = read_scales(kOperation, quantizer, linear, layout_scales);
    quantizer->quantizer.unswizzle_scales(pair.layout, pair.linear, stream);
  });
}
