/* The floating-point control word.
 *
 * A caller may have set flush-to-zero (torch.set_flush_denormal, -ffast-math libraries) or another rounding mode; the
 * magic-number rounding of exp and the error budgets stand on round-to-nearest with denormals. */
#include "core.h"

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>

pfo_fpenv pfo_fpenv_enter(void)
{
    unsigned saved = _mm_getcsr();
    if (saved != 0x1f80u) _mm_setcsr(0x1f80u);
    return saved;
}

void pfo_fpenv_leave(pfo_fpenv saved)
{
    /* Flags that the kernels raised are dropped with the rest: the caller sees the word it had. */
    if (_mm_getcsr() != (unsigned)saved) _mm_setcsr((unsigned)saved);
}

#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))

pfo_fpenv pfo_fpenv_enter(void)
{
    uint64_t saved;
    const uint64_t defaults = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    if (saved != defaults) __asm__ volatile("msr fpcr, %0" : : "r"(defaults));
    return saved;
}

void pfo_fpenv_leave(pfo_fpenv saved)
{
    if (saved != 0) __asm__ volatile("msr fpcr, %0" : : "r"(saved));
}

#else

pfo_fpenv pfo_fpenv_enter(void) { return 0; }

void pfo_fpenv_leave(pfo_fpenv saved) { (void)saved; }

#endif
