/* Which row runs: the best usable one, PREFOPT_ISA, or what the calling thread forced. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "isa_list.h"

#if PFO_HAVE_X86
#include <cpuid.h>

/* clang 14 knows no "f16c" in __builtin_cpu_supports.  "avx2" also says that the system keeps the wide registers. */
static int cpu_has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

static int pfo_cpu_has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c();
}

static int pfo_cpu_has_avx512(void)
{
#if defined(PFO_SIMDE)
    return pfo_cpu_has_avx2(); /* emulated: test builds only */
#else
    return pfo_cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
}
#else
#define pfo_cpu_has_avx2() 0
#define pfo_cpu_has_avx512() 0
#endif

extern const pfo_kernels pfo_kernels_scalar;
#if PFO_HAVE_X86
extern const pfo_kernels pfo_kernels_avx2, pfo_kernels_avx512;
#define PFO_TABLE_avx2 &pfo_kernels_avx2
#define PFO_TABLE_avx512 &pfo_kernels_avx512
#else
#define PFO_TABLE_avx2 NULL
#define PFO_TABLE_avx512 NULL
#endif
#if PFO_HAVE_NEON
extern const pfo_kernels pfo_kernels_neon;
#define PFO_TABLE_neon &pfo_kernels_neon
#else
#define PFO_TABLE_neon NULL
#endif
#define PFO_TABLE_scalar &pfo_kernels_scalar

static const struct {
    const char *name;
    int compiled;
    const pfo_kernels *kernels;
} rows[] = {
#define PFO_ROW(name, compiled, usable) {#name, compiled, PFO_TABLE_##name},
    PFO_ISA_LIST(PFO_ROW)
#undef PFO_ROW
};
enum {
    ROW_COUNT = sizeof rows / sizeof rows[0]
};

#if defined(_MSC_VER)
static __declspec(thread) int forced_row = -1;
#else
static _Thread_local int forced_row = -1;
#endif
static atomic_int default_row = -1; /* decided at the first kernel call */

int pfo_isa_count(void) { return ROW_COUNT; }

const char *pfo_isa_name(int row) { return row >= 0 && row < ROW_COUNT ? rows[row].name : NULL; }

int pfo_isa_usable(int row)
{
    int at = 0;
#define PFO_ROW(name, compiled, usable) \
    if (at++ == row) return (compiled) && (usable);
    PFO_ISA_LIST(PFO_ROW)
#undef PFO_ROW
    return 0;
}

static pfo_status find_row(const char *name, const char *argument, int *row, pfo_error *error)
{
    char usable[128] = "";
    for (int i = 0; i < ROW_COUNT; i++) {
        if (strcmp(rows[i].name, name) == 0 && pfo_isa_usable(i)) {
            *row = i;
            return PFO_OK;
        }
        if (pfo_isa_usable(i)) {
            if (usable[0]) strcat(usable, ", ");
            strcat(usable, rows[i].name);
        }
    }
    return pfo_fail(error, PFO_ERROR_ISA, argument, -1, "expected an instruction set usable here (%s), got '%.40s'",
                    usable, name);
}

static pfo_status decide_default(int *row, pfo_error *error)
{
    *row = atomic_load(&default_row);
    if (*row >= 0) return PFO_OK;
    const char *wanted = getenv("PREFOPT_ISA");
    if (wanted && wanted[0]) {
        pfo_status status = find_row(wanted, "PREFOPT_ISA", row, error);
        if (status != PFO_OK) return status;
    } else {
        for (int i = 0; i < ROW_COUNT; i++)
            if (pfo_isa_usable(i)) *row = i;
    }
    atomic_store(&default_row, *row);
    return PFO_OK;
}

pfo_status pfo_set_isa(const char *name, pfo_error *error)
{
    pfo_clear(error);
    int row = -1;
    if (name) {
        pfo_status status = find_row(name, "isa", &row, error);
        if (status != PFO_OK) return status;
    }
    forced_row = row;
    return PFO_OK;
}

pfo_status pfo_current_isa(const char **name, pfo_error *error)
{
    pfo_clear(error);
    int row = forced_row;
    if (row < 0) {
        pfo_status status = decide_default(&row, error);
        if (status != PFO_OK) return status;
    }
    *name = rows[row].name;
    return PFO_OK;
}

const pfo_kernels *pfo_kernels_now(pfo_error *error)
{
    int row = forced_row;
    if (row < 0 && decide_default(&row, error) != PFO_OK) return NULL;
    return rows[row].kernels;
}
