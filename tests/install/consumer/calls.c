// SPDX-License-Identifier: Apache-2.0
// The C interface: its ABI number, a question about sizes, and a call that is refused.
#include <moesaic/moesaic.h>
#include <stdio.h>

int main(void) {
  moesaic_quant_spec spec;
  moesaic_quant_sizes sizes;
  moesaic_checkpoint* checkpoint = NULL;
  moesaic_quant_spec_init(&spec, sizeof(spec));
  moesaic_quant_sizes_init(&sizes, sizeof(sizes));
  if (moesaic_quant_sizes_of(&spec, 2, 32, &sizes) != MOESAIC_OK) return 1;
  printf("ABI: %u of the library, %u of the header\n", (unsigned)moesaic_abi_version(), (unsigned)MOESAIC_ABI_VERSION);
  printf("NVFP4 [2, 32]: %d bytes of codes\n", (int)sizes.code_bytes);
  printf("refused: %s\n", moesaic_status_name(moesaic_checkpoint_open("no such folder", &checkpoint)));
  return 0;
}
