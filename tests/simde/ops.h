/* Shared by the two files of the emulation's test. */
#ifndef PREFOPT_TEST_SIMDE_OPS_H
#define PREFOPT_TEST_SIMDE_OPS_H

/* Checks every AVX-512 operation that csrc/simd/vec_avx512.h uses against plain C, lane by lane.
 * Returns the number of lanes that differ; *lanes counts all of them. */
long check_avx512_operations(long *lanes);

#endif
