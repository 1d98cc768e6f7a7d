// SPDX-License-Identifier: MIT
#define _DEFAULT_SOURCE /* getloadavg */
#include "results/provenance.h"
#include "commit.h"
#include "base/clock.h"
#include "base/json_text.h"
#include <math.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

const char *provenance_commit(void) { return MOECTL_COMMIT; }

const char *provenance_compiler(void) {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

static json_t *load_averages(void) {
  double load[3];
  if (getloadavg(load, 3) != 3) return json_null();
  return json_pack("[f, f, f]", load[0], load[1], load[2]);
}

json_t *provenance_now(const experiment *plan) {
  struct utsname system = {.nodename = "unknown"};
  char started[TIME_SIZE] = "unknown", name[256] = "unknown";
  time_stamp(started);
  if (uname(&system) >= 0)
    snprintf(name, sizeof name, "%.80s %.80s %.80s", system.sysname, system.release,
             system.machine);
  return json_pack("{s:s, s:o, s:o, s:I, s:o, s:o, s:i, s:s, s:s, s:s}", "started", started, "host",
                   json_words(system.nodename), "system", json_words(name), "processors",
                   (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "load_average", load_averages(),
                   "command", json_words(plan->command), "processes",
                   plan->processes > 1 ? plan->processes : 1, "moecl", moecl_version(), "commit",
                   provenance_commit(), "compiler", provenance_compiler());
}

int64_t provenance_processes(const json_t *run) {
  const json_int_t processes = json_integer_value(json_object_get(run, "processes"));
  return processes > 1 ? processes : 1;
}
