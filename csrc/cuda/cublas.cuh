/* What the library calls of cuBLAS, opened at run time: it is 500 MB that only the linear op needs. */
#ifndef PFO_CUDA_CUBLAS_CUH
#define PFO_CUDA_CUBLAS_CUH

#include "host.cuh"

namespace pfo
{

/* Rows of a matrix, `stride` elements from one to the next; transposed: as its columns. */
struct Operand {
    const void *data;
    int64_t stride;
    bool is_transposed = false;
};
inline Operand transposed(Operand operand) { return {operand.data, operand.stride, true}; }

/* c [m, n] = alpha a b + beta c with a [m, k] and b [k, n], row major; c is float32, a and b are both of `dtype`. */
struct Product {
    int64_t m, n, k;
    Operand a, b;
    float *c;
    int64_t c_stride;
    float alpha, beta;
    int32_t dtype;
    bool rounds_to_tf32; /* float32 operands only */
};

/* Bytes of workspace that cuBLAS is given on call->device. */
int64_t cublas_workspace(const pfo_cuda_call *call);

/* cuBLAS on call->stream of the current device, as long as it lives: one caller a device at a time. */
class Cublas
{
  public:
    Cublas(const pfo_cuda_call *call, void *workspace, int64_t bytes, pfo_error *error);
    ~Cublas();
    Cublas(const Cublas &) = delete;
    Cublas &operator=(const Cublas &) = delete;
    /* Nothing where a size is 0, but that beta 0 clears c. */
    pfo_status multiply(const Product &product, pfo_error *error) const;
    pfo_status status; /* with its words in *error */

  private:
    void *handle = nullptr;
    int locked = -1;
};

} // namespace pfo

#endif
