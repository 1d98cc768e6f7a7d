// SPDX-License-Identifier: MIT
/* Formats that keep experts off a device's matrix units are told, with those that have them. On any
 * device: plans build nothing, so that it may be said to have what it has not. */
#include "ocl/ocl.h"
#include "run/matrix_units.h"
#include "unit.h"

typedef struct formats {
  moecl_format weights, rows;
  uint32_t units; /* capabilities that the device has besides */
  const char *variant;
  const char *want; /* the end of what is told; NULL: nothing is */
} formats;

#define HOPPER (MOECL_CAP_PTX_SM80 | MOECL_CAP_PTX_SM90A)
static const formats cases[] = {
    {MOECL_FORMAT_INT4_G128, MOECL_FORMAT_FP8_ROW, HOPPER, NULL,
     "layer.activation_format fp8-row beside layer.weight_format int4-g128: no kernel of this "
     "device's matrix units takes both, and 'generic' takes many tokens far longer. They take "
     "activation_format dtype, or weight_format fp8-row"},
    {MOECL_FORMAT_INT8, MOECL_FORMAT_FP8_G128, HOPPER, NULL,
     "They take activation_format dtype, or weight_format fp8-g128"},
    /* no kernel of Ampere's multiplies codes */
    {MOECL_FORMAT_MXFP4, MOECL_FORMAT_INT8, MOECL_CAP_PTX_SM80, NULL,
     "They take activation_format dtype"},
    {MOECL_FORMAT_INT8_G128, MOECL_FORMAT_INT8, HOPPER, NULL, NULL},
    {MOECL_FORMAT_INT4_G128, MOECL_FORMAT_DTYPE, HOPPER, NULL, NULL},
    {MOECL_FORMAT_INT4_G128, MOECL_FORMAT_FP8_ROW, 0, NULL, NULL},
    {MOECL_FORMAT_INT4_G128, MOECL_FORMAT_FP8_ROW, HOPPER, "generic", NULL}};

static void test_missed(void **state) {
  moecl_context *context = NULL;
  (void)state;
  assert_ok(moecl_context_create(NULL, &context));
  const uint32_t units = HOPPER | MOECL_CAP_MFMA | MOECL_CAP_WMMA | MOECL_CAP_CPU;
  const uint32_t others = context->info.capabilities & ~units;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const formats *c = &cases[i];
    const moecl_layer_params params = {.dtype = MOECL_BF16,
                                       .hidden_size = 256,
                                       .intermediate_size = 128,
                                       .num_experts = 8,
                                       .top_k = 2,
                                       .weight_format = c->weights,
                                       .activation_format = c->rows,
                                       .grouped_gemm_variant = c->variant};
    char text[512] = "";
    context->info.capabilities = others | c->units;
    const bool missed = matrix_units_missed(context, &params, 4096, text, sizeof text);
    const size_t told = strlen(text), want = c->want ? strlen(c->want) : 0;
    if (missed != (c->want != NULL) || told < want || (want && strcmp(text + told - want, c->want)))
      fail_msg("%s beside %s: '%s', expected '%s'", moecl_format_name(c->rows),
               moecl_format_name(c->weights), text, c->want ? c->want : "");
  }
  moecl_context_destroy(&context);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_missed)};
  skip_without_device();
  return cmocka_run_group_tests_name("matrix units", tests, NULL, NULL);
}
