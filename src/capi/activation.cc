// SPDX-License-Identifier: Apache-2.0
// The activation alone in the C interface.
#include "capi/handles.h"
#include "capi/structs.h"
#include "capi/tensors.h"

using namespace moesaic;        // NOLINT(google-build-using-namespace): C names outside of every namespace
using namespace moesaic::capi;  // NOLINT(google-build-using-namespace)

moesaic_status moesaic_activation_op_create(const moesaic_activation_spec* spec, DLDevice device,
                                            const moesaic_module_options* modules, moesaic_activation_op** op) {
  constexpr const char* kOperation = "activation_op_create";
  return guarded(kOperation, [&] {
    check_given(kOperation, "op", op, "where the handle goes");
    *op = nullptr;
    const OrderedActivation s = to_activation_spec(kOperation, spec);
    const Device where = to_device(kOperation, device);
    *op = new moesaic_activation_op{ActivationOp::create(s.activation, where, to_modules(kOperation, modules), s.order),
                                    where};
  });
}

void moesaic_activation_op_destroy(moesaic_activation_op* op) { delete op; }

moesaic_status moesaic_activation_op_run(const moesaic_activation_op* op, const moesaic_activation_run* run,
                                         void* stream) {
  constexpr const char* kOperation = "activation_op_run";
  return guarded(kOperation, [&] {
    check_given(kOperation, "op", op, "a handle");
    const moesaic_activation_run r = read_struct(kOperation, "run", run);
    check_given(kOperation, "run.x", r.x, "a tensor");
    check_given(kOperation, "run.out", r.out, "a tensor");
    TensorReader reader(kOperation, op->device);
    op->op.run({reader.compact("run.x", r.x), reader.compact("run.out", r.out)}, stream);
  });
}
