/* Runs the checks of ops.c if this build can: the emulation everywhere, real AVX-512 where the CPU has it. */
#include <stdio.h>

#include "ops.h"

static int can_run(void)
{
#if defined(PFO_SIMDE)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
}

int main(void)
{
    long lanes = 0;
    if (!can_run()) {
        printf("AVX-512 operations: compiled, not run (this CPU lacks the instructions)\n");
        return 0;
    }
    const long failures = check_avx512_operations(&lanes);
    printf("%s: AVX-512 operations, %ld lanes compared with plain C, %ld differ\n", failures ? "FAIL" : "PASS", lanes,
           failures);
    return failures != 0;
}
