/* What a thread knows of its part of a row after one read, and how the threads of a row put it together.
 *
 *     m = max x,  sum e^(x-m),  sum (x-m) e^(x-m),  sum e^2(x-m),  sum x       (x - m divided by the temperature in e^)
 *
 * Every thread keeps sums relative to its own running maximum. A chunk of PACKS times 16 bytes is looked at twice in
 * registers: for its maximum, by packed instructions, and for its sums. Only where the maximum rises are the sums so
 * far rescaled: that branch costs as much as an element and a half, and is rare after the first chunks of a row.
 *
 * The largest element is exactly 1 in the sums: x - m comes first, then one multiplication by log2(e) / temperature
 * for the hardware's 2^x. (One fma in place of the two would save an instruction, and leave the rounding of m log2(e)
 * / temperature in the log-probabilities of rows that one entry dominates.) The sums of a chunk are made first, then
 * added: a float is the sum of at most 32 terms, and of as many such sums as the thread has chunks.
 *
 * Where x is -inf, e^ is 0 and adds nothing; NaN goes through; +inf makes sum e^ infinite, which marks the row. */
#ifndef PFO_CUDA_ROW_SUMS_CUH
#define PFO_CUDA_ROW_SUMS_CUH

#include "team.cuh"

namespace pfo
{

template <typename T, int LEVEL, int THREADS> class RowSums
{
    using Real = typename Dtype<T>::Real;
    static constexpr Real LARGEST = Arithmetic<Real>::LARGEST;
    static constexpr int COUNT = Pack<T>::COUNT;
    static constexpr int PACKS = 4;
    static constexpr bool ENTROPY = LEVEL >= PFO_FOLD_ENTROPY, ALL = LEVEL >= PFO_FOLD_ALL;

  public:
    __device__ RowSums(RealNumber scale, double inv_temperature)
        : scale(scale.as<Real>()), inv_temperature(inv_temperature)
    {
    }

    /* Elements [begin, end) of a row, those of this thread. */
    __device__ void read(const T *row, int begin, int end)
    {
        const int thread = int(threadIdx.x);
        const int head = begin + head_of(row + begin, end - begin);
        const int packs = (end - head) / COUNT, tail = head + packs * COUNT;
        if (begin + thread < head) add_value(row[begin + thread], begin + thread);
        int i = thread;
        for (; i + (PACKS - 1) * THREADS < packs; i += PACKS * THREADS) add_packs<PACKS>(row, head + i * COUNT);
        for (; i < packs; i += THREADS) add_packs<1>(row, head + i * COUNT);
        if (tail + thread < end) add_value(row[tail + thread], tail + thread);
    }

    /* The state of elements [begin, end), complete but for the target, in thread 0. best is an index in the row. */
    __device__ void combine(const T *row, int begin, int end, pfo_row_state *state)
    {
        Real row_top = top;
        Team<THREADS>::template maxima<1>(&row_top);
        const Real common = smaller(larger(row_top, -LARGEST), LARGEST);
        const double shift = double(reference - common);
        const double factor = double(Arithmetic<Real>::power((reference - common) * scale));
        double sums[4] = {factor * double(sum_exp), 0, factor * factor * double(sum_exp2), double(sum_x)};
        if (ENTROPY) sums[1] = factor == 0 ? sums[0] : factor * fma(shift, double(sum_exp), double(sum_x_exp));
        unsigned first = top == row_top ? first_of(row, begin, end) : ~0u;
        Team<THREADS>::template sums<ALL ? 4 : ENTROPY ? 2 : 1>(sums, &first);
        device_row_state_init(state);
        state->max = double(row_top) * inv_temperature;
        state->sum_exp = sums[0];
        state->sum_x_exp = sums[1] * inv_temperature;
        state->sum_exp2 = sums[2];
        state->sum_x = sums[3] * inv_temperature;
        state->best = first == ~0u ? -1 : int64_t(first);
        state->count = end - begin;
    }

  private:
    struct ChunkSums {
        Real exp = 0, x_exp = 0, exp2 = 0, x = 0;
    };

    __device__ void accumulate(Real x, ChunkSums *chunk) const
    {
        const Real d = x - reference;
        const Real e = Arithmetic<Real>::power(d * scale);
        chunk->exp += e;
        if (ENTROPY) chunk->x_exp = multiply_add(larger(d, -LARGEST), e, chunk->x_exp); /* -inf times 0 */
        if (ALL) chunk->exp2 = multiply_add(e, e, chunk->exp2);
        if (ALL) chunk->x += x;
    }

    __device__ void add(const ChunkSums &chunk)
    {
        sum_exp += chunk.exp;
        if (ENTROPY) sum_x_exp += chunk.x_exp;
        if (ALL) sum_exp2 += chunk.exp2;
        if (ALL) sum_x += chunk.x;
    }

    /* A chunk that begins at `first` has a new maximum. The reference stays finite. */
    __device__ void raise(Real max, int first)
    {
        const Real finite = smaller(max, LARGEST), shift = reference - finite;
        const Real factor = Arithmetic<Real>::power(shift * scale);
        /* shift may be -inf where factor is 0; the product's limit is 0. A NaN sum stays NaN. */
        if (ENTROPY) sum_x_exp = factor == 0 ? factor * sum_exp : factor * multiply_add(shift, sum_exp, sum_x_exp);
        if (ALL) sum_exp2 *= factor * factor;
        sum_exp *= factor;
        top = max;
        reference = finite;
        best = first;
    }

    __device__ void add_value(T element, int index)
    {
        const Real x = Dtype<T>::widen(element);
        ChunkSums chunk;
        if (x > top) raise(x, index);
        accumulate(x, &chunk);
        add(chunk);
    }

    /* CHUNK packs, THREADS packs from one to the next; the first begins at element `first`. */
    template <int CHUNK> __device__ void add_packs(const T *row, int first)
    {
        Pack<T> packs[CHUNK];
        PFO_UNROLL
        for (int p = 0; p < CHUNK; p++) packs[p] = Pack<T>::load(row + first + p * THREADS * COUNT);
        typename Dtype<T>::Word word = packs[0].words[0];
        PFO_UNROLL
        for (int p = 0; p < CHUNK; p++) PFO_UNROLL
        for (int i = 0; i < Pack<T>::WORDS; i++) word = Dtype<T>::max_word(word, packs[p].words[i]);
        const Real max = Dtype<T>::max_of(word);
        if (max > top) raise(max, first);
        ChunkSums chunk;
        PFO_UNROLL
        for (int p = 0; p < CHUNK; p++) {
            Real values[COUNT];
            packs[p].values(values);
            PFO_UNROLL
            for (int k = 0; k < COUNT; k++) accumulate(values[k], &chunk);
        }
        add(chunk);
    }

    /* The first element that equals top, in the chunk that brought it; ~0 if there was none (all -inf or NaN). */
    __device__ unsigned first_of(const T *row, int begin, int end) const
    {
        if (best < 0) return ~0u;
        const int head = begin + head_of(row + begin, end - begin);
        const int tail = head + (end - head) / COUNT * COUNT;
        if (best < head || best >= tail) return unsigned(best);
        for (int first = best; first < tail; first += THREADS * COUNT)
            for (int v = first; v < first + COUNT; v++)
                if (Dtype<T>::widen(row[v]) == top) return unsigned(v);
        return ~0u;
    }

    const Real scale; /* of x, to powers of the base */
    const double inv_temperature;
    Real top = -Real(INFINITY); /* the maximum */
    Real reference = -LARGEST;  /* what the sums are relative to: top, where that is finite */
    Real sum_exp = 0, sum_x_exp = 0, sum_exp2 = 0, sum_x = 0; /* x - reference in place of x - m, unscaled */
    int best = -1;                                            /* the first element of the chunk that brought top */
};

} // namespace pfo

#endif
