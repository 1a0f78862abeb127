/* One small kernel an operation: what g++ makes of the expression is compared with what nvcc's PTX does, translated. */
#include "instructions.h"

#include <stddef.h>

#include "cuda/device.cuh"

using F = float;
using D = double;
using S16 = short;
using U16 = unsigned short;
using S32 = int;
using U32 = unsigned;
using S64 = long long;
using U64 = unsigned long long;
using H = __half;
using B = __nv_bfloat16;
using H2 = __half2;
using B2 = __nv_bfloat162;

/* OPERATION(name, ulps allowed, result, a, b, c, expression) */
#define OPERATION(name, ulps, Result, TypeA, TypeB, TypeC, expression)                                               \
    struct Op_##name {                                                                                               \
        using Out = Result;                                                                                          \
        using A = TypeA;                                                                                             \
        using B_ = TypeB;                                                                                            \
        using C = TypeC;                                                                                             \
        static __device__ Result apply([[maybe_unused]] TypeA a, [[maybe_unused]] TypeB b, [[maybe_unused]] TypeC c) \
        {                                                                                                            \
            return expression;                                                                                       \
        }                                                                                                            \
    };
#include "operations.inc"
#undef OPERATION

template <typename Op>
__global__ void apply(const typename Op::A *a, const typename Op::B_ *b, const typename Op::C *c, typename Op::Out *out,
                      int count)
{
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < count) out[i] = Op::apply(a[i], b[i], c[i]);
}

template <typename Op> static int launch(const void *a, const void *b, const void *c, void *out, int count)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = unsigned(count + 127) / 128;
    config.blockDim = 128;
    return cudaLaunchKernelEx(&config, apply<Op>, static_cast<const typename Op::A *>(a),
                              static_cast<const typename Op::B_ *>(b), static_cast<const typename Op::C *>(c),
                              static_cast<typename Op::Out *>(out), count);
}

#define KIND(type) #type
static const instruction TABLE[] = {
#define OPERATION(name, ulps, Result, TypeA, TypeB, TypeC, expression) \
    {#name, {KIND(TypeA), KIND(TypeB), KIND(TypeC)}, KIND(Result), ulps, int(sizeof(Result)), launch<Op_##name>},
#include "operations.inc"
#undef OPERATION
};

int instruction_count(void) { return int(sizeof TABLE / sizeof TABLE[0]); }
const instruction *instruction_at(int index) { return &TABLE[index]; }
