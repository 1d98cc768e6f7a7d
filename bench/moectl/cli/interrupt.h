// SPDX-License-Identifier: MIT
/* Ctrl-C, SIGTERM and a terminal that goes away: what a run does then. */
#ifndef MOECTL_INTERRUPT_H
#define MOECTL_INTERRUPT_H

#include <signal.h>

/* 0 until the first signal. */
extern volatile sig_atomic_t interrupt_came;

/* From here on the first signal is answered at once with what happens now, and sets
 * interrupt_came; a second one ends the program, after saying with which command to go
 * on (`resume`, copied). May be called again, for another run. */
void interrupt_catch(const char *resume);
/* From here on the first signal does what a second one does: mpirun, which sends it to all
 * processes where one has ended, kills them a moment later. */
void interrupt_end_at_once(void);
/* Only the table is left to print: a first signal sets interrupt_came without a word, which
 * would land within it where stdout and stderr are one file. */
void interrupt_say_no_more(void);

#endif
