/* How many threads read a row, and in how many parts. */
#ifndef PFO_CUDA_PLAN_CUH
#define PFO_CUDA_PLAN_CUH

#include "host.cuh"

namespace pfo
{

constexpr int BLOCK_THREADS = 256;
constexpr int64_t WARP_BYTES = 4096;  /* a row up to here is one warp's: two loads of four packs a thread */
constexpr int64_t PART_BYTES = 32768; /* no part of a row is smaller: two loads of four packs a thread of its block */
constexpr int BLOCKS_PER_PROCESSOR = 4;
constexpr int PART_STEP = 16; /* parts begin at multiples of so many elements, whatever the dtype aligned alike */

struct Plan {
    int threads;        /* of a row's team: 32 or BLOCK_THREADS */
    int rows_per_block; /* 1 for a block */
    int parts;          /* blocks to a row */
    unsigned blocks;
};

/* Of checked logits. */
inline int64_t row_bytes(const pfo_view *logits)
{
    return logits->shape[logits->ndim - 1] * pfo_dtype_size(logits->dtype);
}

inline Plan plan_rows(int64_t rows, int64_t row_bytes, int multiprocessors)
{
    if (row_bytes <= WARP_BYTES) {
        const int each = BLOCK_THREADS / 32;
        return {32, each, 1, unsigned((rows + each - 1) / each)};
    }
    const int64_t wanted = int64_t(multiprocessors) * BLOCKS_PER_PROCESSOR;
    int64_t parts = rows > 0 ? wanted / rows : 1;
    if (parts > row_bytes / PART_BYTES) parts = row_bytes / PART_BYTES;
    if (parts < 1) parts = 1;
    return {BLOCK_THREADS, 1, int(parts), unsigned(rows * parts)};
}

/* What a team has to do: elements [begin, end) of a row, which is past the last one in a block with teams to spare. */
struct Piece {
    unsigned number, row;
    int begin, end;
};

/* Of the calling thread: blocks are (threads of a team, teams). All parts of a row but the last have one length. */
__device__ inline Piece piece_of(unsigned rows, int parts, int vocab)
{
    const unsigned number = blockIdx.x * blockDim.y + threadIdx.y;
    if (parts == 1 || number >= rows * unsigned(parts)) return {number, parts == 1 ? number : rows, 0, vocab};
    const unsigned row = number / unsigned(parts);
    const int each = (vocab - 1) / parts + 1, length = (each + PART_STEP - 1) / PART_STEP * PART_STEP;
    const int begin = min(int(number - row * unsigned(parts)) * length, vocab);
    return {number, row, begin, min(begin + length, vocab)};
}

} // namespace pfo

#endif
