/* What a thread knows of its part of two rows after one read, a policy's x and a reference's y, and how the threads of
 * a block put it together: sums of both softmaxes, both cross sums, the sums of x +- eps (x - y) (core/pair_state.h).
 *
 * As row_sums.cuh: sums are relative to the thread's own running maxima, and a chunk (16 bytes of each row) is looked
 * at for its maxima first. An entry of probability 0 under the first argument of a divergence adds nothing to it,
 * whatever its log-ratio; one of probability 0 only under the second makes it infinite. */
#ifndef PFO_CUDA_PAIR_SUMS_CUH
#define PFO_CUDA_PAIR_SUMS_CUH

#include "pair_state.cuh"
#include "team.cuh"

namespace pfo
{

/* x + eps (x - y); an entry that the policy rules out stays ruled out. */
template <typename Real> __device__ inline Real perturbed(Real x, Real y, Real eps)
{
    return x == -Real(INFINITY) ? x : multiply_add(eps, x - y, x);
}

template <typename T, bool PERTURBED, int THREADS> class PairSums
{
    using Real = typename Dtype<T>::Real;
    static constexpr Real LARGEST = Arithmetic<Real>::LARGEST;
    static constexpr int COUNT = Pack<T>::COUNT, ROWS = PERTURBED ? PFO_PAIR_ROWS : PFO_PAIR_PLUS;

  public:
    __device__ PairSums(RealNumber scale, double inv_temperature, RealNumber perturbation)
        : scale(scale.as<Real>()), inv_temperature(inv_temperature), eps(perturbation.as<Real>())
    {
        PFO_UNROLL
        for (int k = 0; k < PFO_PAIR_ROWS; k++) {
            top[k] = -Real(INFINITY);
            reference[k] = -LARGEST;
            sum[k] = 0;
        }
    }

    /* This thread's elements of both rows. */
    __device__ void read(const T *x, const T *y, int vocab)
    {
        const int thread = int(threadIdx.x);
        const bool alike = reinterpret_cast<uintptr_t>(x) % 16 == reinterpret_cast<uintptr_t>(y) % 16;
        const int head = alike ? head_of(x, vocab) : vocab;
        const int packs = (vocab - head) / COUNT, tail = head + packs * COUNT;
        for (int v = thread; v < head; v += THREADS) add_one(x[v], y[v]);
        for (int i = thread; i < packs; i += THREADS) {
            Real xs[COUNT], ys[COUNT];
            Pack<T>::load(x + head + i * COUNT).values(xs);
            Pack<T>::load(y + head + i * COUNT).values(ys);
            add(xs, ys);
        }
        if (tail + thread < vocab) add_one(x[tail + thread], y[tail + thread]);
    }

    /* The state of both rows, in thread 0. */
    __device__ void combine(pfo_pair_state *state)
    {
        double common[PFO_PAIR_ROWS], maxima[PFO_PAIR_ROWS];
        Real row_top[PFO_PAIR_ROWS];
        PFO_UNROLL
        for (int k = 0; k < PFO_PAIR_ROWS; k++) row_top[k] = top[k];
        Team<THREADS>::template maxima<ROWS>(row_top);
        device_pair_state_init(state);
        PFO_UNROLL
        for (int k = 0; k < PFO_PAIR_ROWS; k++) {
            maxima[k] = double(row_top[k]) * inv_temperature;
            common[k] = double(smaller(larger(row_top[k], -LARGEST), LARGEST)) * inv_temperature;
            state->max[k] = double(reference[k]) * inv_temperature;
            state->sum_exp[k] = double(sum[k]);
        }
        state->ref_cross = double(ref_cross) * inv_temperature;
        state->policy_cross = double(policy_cross) * inv_temperature;
        device_pair_state_rebase(state, common);
        double sums[] = {state->sum_exp[0],   state->sum_exp[1], state->ref_cross,
                         state->policy_cross, state->sum_exp[2], state->sum_exp[3]};
        unsigned unused = 0;
        Team<THREADS>::template sums<PERTURBED ? 6 : 4>(sums, &unused);
        state->sum_exp[0] = sums[0];
        state->sum_exp[1] = sums[1];
        state->ref_cross = sums[2];
        state->policy_cross = sums[3];
        state->sum_exp[2] = sums[4];
        state->sum_exp[3] = sums[5];
        PFO_UNROLL
        for (int k = 0; k < PFO_PAIR_ROWS; k++) state->max[k] = maxima[k];
    }

  private:
    __device__ Real value_of(int k, Real x, Real y) const
    {
        if (k == PFO_PAIR_POLICY) return x;
        if (k == PFO_PAIR_REF) return y;
        return perturbed(x, y, k == PFO_PAIR_PLUS ? eps : -eps);
    }

    /* e^a b with 0 for e^a = 0, whatever b. */
    static __device__ Real cross_term(Real e, Real gap) { return e == 0 ? e : e * gap; }

    /* Row k has a new maximum: its sums, and the cross sums whose differences shift with it. */
    __device__ void raise(int k, Real max)
    {
        const Real finite = smaller(max, LARGEST), shift = reference[k] - finite;
        const Real factor = Arithmetic<Real>::power(shift * scale);
        if (k == PFO_PAIR_POLICY) {
            policy_cross = moved(policy_cross, sum[PFO_PAIR_POLICY], shift, factor);
            ref_cross = moved(ref_cross, sum[PFO_PAIR_REF], -shift, Real(1));
        } else if (k == PFO_PAIR_REF) {
            ref_cross = moved(ref_cross, sum[PFO_PAIR_REF], shift, factor);
            policy_cross = moved(policy_cross, sum[PFO_PAIR_POLICY], -shift, Real(1));
        }
        sum[k] *= factor;
        top[k] = max;
        reference[k] = finite;
    }

    /* factor (cross + sum shift), and 0 (or NaN) where nothing is left: shift may be infinite there. */
    static __device__ Real moved(Real cross, Real total, Real shift, Real factor)
    {
        return total == 0 || factor == 0 ? total * factor : factor * multiply_add(total, shift, cross);
    }

    template <int N> __device__ void add(const Real (&xs)[N], const Real (&ys)[N])
    {
        PFO_UNROLL
        for (int k = 0; k < ROWS; k++) {
            Real max = value_of(k, xs[0], ys[0]);
            PFO_UNROLL
            for (int i = 1; i < N; i++) max = larger(max, value_of(k, xs[i], ys[i]));
            if (max > top[k]) raise(k, max);
        }
        Real chunk[PFO_PAIR_ROWS] = {}, chunk_ref_cross = 0, chunk_policy_cross = 0;
        PFO_UNROLL
        for (int i = 0; i < N; i++) {
            const Real dx = xs[i] - reference[PFO_PAIR_POLICY], dy = ys[i] - reference[PFO_PAIR_REF];
            const Real ex = Arithmetic<Real>::power(dx * scale), ey = Arithmetic<Real>::power(dy * scale);
            chunk[PFO_PAIR_POLICY] += ex;
            chunk[PFO_PAIR_REF] += ey;
            chunk_ref_cross += cross_term(ey, dy - dx);
            chunk_policy_cross += cross_term(ex, dx - dy);
            PFO_UNROLL
            for (int k = PFO_PAIR_PLUS; k < ROWS; k++)
                chunk[k] += Arithmetic<Real>::power((value_of(k, xs[i], ys[i]) - reference[k]) * scale);
        }
        PFO_UNROLL
        for (int k = 0; k < ROWS; k++) sum[k] += chunk[k];
        ref_cross += chunk_ref_cross;
        policy_cross += chunk_policy_cross;
    }

    __device__ void add_one(T x, T y)
    {
        const Real xs[1] = {Dtype<T>::widen(x)}, ys[1] = {Dtype<T>::widen(y)};
        add(xs, ys);
    }

    const Real scale;
    const double inv_temperature;
    const Real eps;
    Real top[PFO_PAIR_ROWS], reference[PFO_PAIR_ROWS], sum[PFO_PAIR_ROWS];
    Real ref_cross = 0, policy_cross = 0; /* unscaled */
};

} // namespace pfo

#endif
