// SPDX-License-Identifier: MIT
#include "kernel/variant.h"
#include "kernel/clblast.h"
#include <stdio.h>
#include <string.h>

bool kernel_variant_serves(const kernel_variant *variant, const desc_format *format,
                           uint32_t capabilities) {
  return kernel_variant_takes(variant, format) &&
         (capabilities & variant->required) == variant->required &&
         (!(variant->traits & KERNEL_LIBRARY) || kernel_clblast_is_built());
}

/* A limit that the driver doesn't tell is 0. */
static bool is_enough(uint64_t limit, uint64_t needed) { return limit == 0 || needed <= limit; }

bool kernel_variant_fits(const kernel_variant *variant, const moecl_device_info *device) {
  return is_enough(device->max_work_group_size, variant->local) &&
         is_enough(device->local_memory_bytes, variant->local_bytes);
}

/* "generic, cpu": the names a user can ask for. */
static void list_names(const kernel_variant *all, size_t count, char *text, size_t size) {
  size_t used = 0;
  for (size_t i = 0; i < count && used < size; i++) {
    int n = snprintf(text + used, size - used, "%s%s", i ? ", " : "", all[i].name);
    if (n < 0) break;
    used += (size_t)n;
  }
}

size_t kernel_candidates(const kernel_table *table, const char *asked, const desc_format *format,
                         const moecl_device_info *device, const kernel_variant **candidates,
                         size_t capacity, char *why, size_t size) {
  const kernel_variant *all = table->rows;
  const char *operation = table->operation;
  const size_t count = table->count;
  size_t found = 0;
  const kernel_variant *too_large = NULL;
  bool known = false, not_built = false;
  for (size_t i = count; i-- > 0 && found < capacity;) {
    if (asked && strcmp(asked, all[i].name) != 0) continue;
    known = true;
    not_built = asked && all[i].traits & KERNEL_LIBRARY && !kernel_clblast_is_built();
    if (!kernel_variant_serves(&all[i], format, device->capabilities)) continue;
    if (!asked && (all[i].traits & KERNEL_ASKED_ONLY)) continue;
    if (!kernel_variant_fits(&all[i], device)) {
      too_large = &all[i];
      continue;
    }
    candidates[found++] = &all[i];
  }
  if (found == 0 && size) {
    char names[256] = "";
    list_names(all, count, names, sizeof names);
    if (too_large)
      snprintf(why, size,
               "%s variant '%s' needs work-groups of %u and %u bytes of local memory, this device "
               "has %llu and %llu; there are: %s",
               operation, too_large->name, (unsigned)too_large->local,
               (unsigned)too_large->local_bytes, (unsigned long long)device->max_work_group_size,
               (unsigned long long)device->local_memory_bytes, names);
    else if (not_built)
      snprintf(why, size,
               "this libmoecl was built without CLBlast, which %s variant '%s' is; "
               "install it and build again",
               operation, asked);
    else if (!asked)
      snprintf(why, size, "no %s variant serves %s on this device; there are: %s", operation,
               format->name, names);
    else if (known)
      snprintf(why, size, "%s variant '%s' cannot serve %s on this device; there are: %s",
               operation, asked, format->name, names);
    else snprintf(why, size, "there is no %s variant '%s'; there are: %s", operation, asked, names);
  }
  return found;
}

uint32_t kernel_vector_width(uint32_t native_width) {
  return native_width >= 16 ? 16 : native_width >= 8 ? 8 : 4;
}

kernel_tile kernel_gemm_tile(const kernel_variant *variant, uint32_t vector_width) {
  if (variant->tile_m) return (kernel_tile){variant->tile_m, variant->tile_n, 1};
  /* By vector width: two vectors of columns, and rows in a multiple of the
   * register tiles' 6 (AVX2 and narrower) and 12 (AVX-512). */
  const uint32_t width = kernel_vector_width(vector_width);
  return (kernel_tile){48, 2 * width, width};
}
