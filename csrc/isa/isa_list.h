/* The instruction sets, worst first: dispatch takes the last usable row.  X(name, compiled in?, CPU check) */
#ifndef PFO_ISA_LIST_H
#define PFO_ISA_LIST_H

#include "../kernels/kernel_list.h"

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define PFO_HAVE_X86 1
#else
#define PFO_HAVE_X86 0
#endif
#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define PFO_HAVE_NEON 1
#else
#define PFO_HAVE_NEON 0
#endif

#define PFO_ISA_LIST(X)                           \
    X(scalar, 1, 1)                               \
    X(avx2, PFO_HAVE_X86, pfo_cpu_has_avx2())     \
    X(avx512, PFO_HAVE_X86, pfo_cpu_has_avx512()) \
    X(neon, PFO_HAVE_NEON, PFO_HAVE_NEON)

/* The kernels of the row in force for this thread, or a filled error record and NULL. */
const pfo_kernels *pfo_kernels_now(pfo_error *error);

/* Opens and closes a region whose functions are compiled for an instruction set.  System headers come before it. */
#define PFO_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define PFO_TARGET_BEGIN(features) \
    PFO_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define PFO_TARGET_END PFO_PRAGMA(clang attribute pop)
#else
#define PFO_TARGET_BEGIN(features) PFO_PRAGMA(GCC push_options) PFO_PRAGMA(GCC target(features))
#define PFO_TARGET_END PFO_PRAGMA(GCC pop_options)
#endif

#endif
