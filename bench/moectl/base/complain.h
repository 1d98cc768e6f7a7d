// SPDX-License-Identifier: MIT
/* What is said on standard error. */
#ifndef MOECTL_COMPLAIN_H
#define MOECTL_COMPLAIN_H

#include <stdbool.h>

/* "moectl: message" on stderr. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);
/* Likewise with another beginning. Names in other people's files may have anything: no
 * control characters but line ends reach the terminal. */
void put_message(const char *start, const char *message);

/* What was said on stdout must have got there: a full disk or a closed pipe must not look
 * like success. False, complained about once: it did not; the results are in `folder` (NULL:
 * there are none). */
bool flush_output(const char *folder);

#endif
