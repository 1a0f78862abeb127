/* What the two gradients share: their first kernel, a thread a row, makes a record of constants for each row; their
 * second writes the rows. */
#ifndef PFO_CUDA_GRAD_ROWS_CUH
#define PFO_CUDA_GRAD_ROWS_CUH

#include "elements.cuh"
#include "plan.cuh"
#include "rows.cuh"

namespace pfo
{

constexpr unsigned PREPARE_THREADS = 64;

enum GradKind {
    GRAD_OF_ROW,
    GRAD_ZERO, /* ignored, or a bad label */
    GRAD_NAN   /* an lse is not finite */
};

/* lse + lse_rest, times the temperature, as one number of the row's type and a remainder in powers of the base: then
 * (x - high) / temperature per nat + low is log p, and x - high is exact where p matters (grad_row in csrc/kernels). */
template <typename Real>
__device__ void split_lse(double lse, double lse_rest, double temperature, Real *high, Real *low)
{
    const double scaled = __dmul_rn(lse, temperature), product_rest = fma(lse, temperature, -scaled);
    *high = Real(scaled);
    const double remainder = (double(*high) - scaled - product_rest) / temperature - lse_rest;
    *low = Real(remainder * Arithmetic<Real>::PER_NAT);
}

/* Elements [begin, end) of a row become `value`; every `step`-th pack by the calling thread. */
template <typename T> __device__ void fill_row(T *out, int begin, int end, int step, double value)
{
    const T element = Dtype<T>::narrow(value);
    const int thread = int(threadIdx.x), head = begin + head_of(out + begin, end - begin);
    const int packs = (end - head) / Pack<T>::COUNT, tail = head + packs * Pack<T>::COUNT;
    typename Dtype<T>::Real values[Pack<T>::COUNT];
    PFO_UNROLL
    for (int k = 0; k < Pack<T>::COUNT; k++) values[k] = Dtype<T>::widen(element);
    const Pack<T> pack = Pack<T>::of(values);
    if (begin + thread < head) out[begin + thread] = element;
    for (int i = thread; i < packs; i += step) pack.store(out + head + i * Pack<T>::COUNT);
    if (tail + thread < end) out[tail + thread] = element;
}

} // namespace pfo

#endif
