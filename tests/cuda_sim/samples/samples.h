/* Three small operations in the shape of the library's: what tests/cuda_sim is tried on, and must pass clean.
 * Pointers are the device's, return values cudaError_t's (or cublasStatus_t's + 1000). */
#ifndef CUDA_SIM_SAMPLES_H
#define CUDA_SIM_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SAMPLE_F32 = 0,
    SAMPLE_F16 = 1,
    SAMPLE_BF16 = 2
};
enum {
    SAMPLE_WARP = 0,
    SAMPLE_BLOCK = 1,
    SAMPLE_BLOCKS = 2
}; /* who reads a row */

typedef struct sample_rows {
    const void *logits;    /* [rows, vocab], any alignment of the dtype, row_stride elements from row to row */
    const int64_t *labels; /* [rows], -100: the row is not read and gets 0 */
    int64_t rows, vocab, row_stride;
    int32_t dtype;
} sample_rows;

/* lse[r] = log sum_v exp(logits[r, v]). workspace: sample_lse_workspace bytes, used by SAMPLE_BLOCKS. */
int64_t sample_lse_workspace(int64_t rows);
int sample_lse(const sample_rows *in, int how, float *lse, void *workspace, void *stream);

/* logits[r, v] = scale[r] (exp(logits[r, v] - lse[r]) - [v == label[r]]), in place; ignored rows become 0. */
int sample_grad(const sample_rows *in, const float *lse, const float *scale, void *logits, void *stream);

/* lse[t] of hidden [tokens, hidden_size] times weight [vocab, hidden_size] transposed, both bfloat16; logits: scratch
 * for tokens * tile floats, state: for 2 * tokens. */
int sample_linear_lse(const void *hidden, const void *weight, int64_t tokens, int64_t hidden_size, int64_t vocab,
                      int64_t tile, float *logits, float *state, float *lse, void *stream);

#ifdef __cplusplus
}
#endif

#endif
