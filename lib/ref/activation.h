// SPDX-License-Identifier: MIT
/* The activations in double precision, of NaN too, which stays NaN. */
#ifndef MOECL_LIB_REF_ACTIVATION_H
#define MOECL_LIB_REF_ACTIVATION_H

#include "moecl/types.h"

/* Of a plain network's up. */
double ref_activate(moecl_activation activation, double x);
/* Of a gated network's gate and up; alpha and limit matter to those that have them. */
double ref_activate_gated(moecl_activation activation, double gate, double up, double alpha,
                          double limit);

#endif
