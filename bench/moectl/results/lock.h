// SPDX-License-Identifier: MIT
/* One run a results folder: a lock that ends with the process, however it ends. */
#ifndef MOECTL_LOCK_H
#define MOECTL_LOCK_H

#include <stdbool.h>

typedef struct folder_lock folder_lock;

/* Takes the folder's lock, a file `.lock` in it. NULL with a message when another
 * process has it, or it cannot be made. */
folder_lock *folder_lock_take(const char *folder, char **error);
/* Gives it back and removes the file. NULL is fine. */
void folder_lock_release(folder_lock **lock);

#endif
