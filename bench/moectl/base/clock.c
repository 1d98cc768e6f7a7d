// SPDX-License-Identifier: MIT
#include "base/clock.h"
#include <string.h>
#include <time.h>

double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool format_now(const char *format, char text[TIME_SIZE]) {
  const time_t now = time(NULL);
  struct tm local;
  char made[TIME_SIZE];
  if (!localtime_r(&now, &local) || !strftime(made, sizeof made, format, &local)) return false;
  strcpy(text, made);
  return true;
}

bool time_stamp(char text[TIME_SIZE]) { return format_now("%Y-%m-%dT%H:%M:%S%z", text); }
bool time_text(char text[TIME_SIZE]) { return format_now("%Y-%m-%d %H:%M:%S %z", text); }
