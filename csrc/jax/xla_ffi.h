/* XLA's C interface to foreign functions, vendored: nothing of jaxlib is needed to build.
 *
 * third_party/xla/c_api.h is the unchanged xla/ffi/api/c_api.h of jaxlib 0.10.2.  To renew it copy the file of a later
 * jaxlib's include folder and run the tests: only what version 0.1 had is used here, and that is what we answer. */
#ifndef PFO_XLA_FFI_H
#define PFO_XLA_FFI_H

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes" /* written for C++: XLA_FFI_GetApi() */
#endif
#include "../third_party/xla/c_api.h"
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
