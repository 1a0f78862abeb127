/* What the two directions of the fused linear op share: a checked call, how it is cut, its operands, its tiles of x.
 *
 * Rows are what is multiplied: all tokens in their order, or with num_tokens those that count, moved together. Rows are
 * worked on in spans, and so is the vocabulary; a pair of spans is a tile, x [token_span, vocab_span] in float32. Cuts
 * follow from sizes, memory_limit and the device's cache. */
#ifndef PFO_CUDA_LINEAR_CUH
#define PFO_CUDA_LINEAR_CUH

#include "cublas.cuh"
#include "plan.cuh"
#include "rows.cuh"

namespace pfo
{

enum RowKind {
    ROW_NONE, /* ignored, or beyond the last one */
    ROW_LIVE,
    ROW_BAD_LABEL,
    ROW_OVERFLOW /* there are more than num_tokens */
};

struct LinearRow {
    int64_t label; /* in the whole vocabulary */
    int32_t place; /* among the tokens */
    int32_t kind;
};

/* ---- the workspace ------------------------------------------------------------------------------------------------*/

/* Hands out pieces of the workspace, or only counts their bytes where there is none. */
class Arena
{
  public:
    explicit Arena(void *base) : base(static_cast<char *>(base)) {}
    template <typename T> T *take(int64_t count)
    {
        const int64_t at = used;
        used += aligned_bytes(count * int64_t(sizeof(T)));
        return base && count > 0 ? reinterpret_cast<T *>(base + at) : nullptr;
    }
    void *take_bytes(int64_t bytes) { return take<char>(bytes); }
    int64_t bytes() const { return used; }

  private:
    char *base;
    int64_t used = 0;
};

/* ---- the call -----------------------------------------------------------------------------------------------------*/

/* Which buffers of [token_span, vocab_span] a call needs beside x. */
struct TileNeeds {
    bool gradients;   /* what is multiplied by the head again: `narrow`, where that is not x's own float32 */
    bool moments;     /* a second of each */
    bool clears_rows; /* hidden is multiplied by gradients: ignored rows of it have to be 0 */
};

struct Linear {
    const pfo_linear_inputs *in;
    const pfo_cuda_call *call;
    uint64_t *report;
    Rows token_rows; /* tokens as two axes */
    RowArray labels, hidden;
    int64_t tokens, rows, hidden_size, vocab, rank, vocab_total;
    bool is_compact;
    TileNeeds needs;

    int32_t dtype; /* of the operands of products */
    bool logits_tf32, grad_tf32;
    bool packs_hidden, packs_weight;
    float alpha; /* x = alpha times the product, where that is all */
    bool has_transform;

    int64_t token_span, vocab_span, ld; /* ld: elements from one row of a tile to the next */
    int64_t tiles;                      /* of the vocabulary */
    Plan plan;                          /* who reads a row of a tile */

    /* Workspace. */
    LinearRow *row_list; /* [rows] */
    int64_t *live_count; /* [1] rows that count, with num_tokens only */
    float *bias, *lora_a, *lora_b, *lora_hidden;
    char *hidden_pack, *weight_pack;
    float *hidden_wide; /* [token_span, H] for LoRA's products */
    float *x, *moments; /* tiles */
    __nv_bfloat16 *narrow[2];
    void *cublas;
    int64_t cublas_bytes;
};

/* A tile in hand. */
struct Tile {
    int64_t row, rows, entry, columns; /* entry: first one, counted in weight */
    Operand hidden, weight;
};

/* Refuses bad inputs, and what CUDA does not have. */
pfo_status linear_check(const pfo_linear_inputs *in, int64_t num_tokens, int32_t products, pfo_error *error);
/* Fills what does not need memory, for inputs that passed. `vectors`: further [...] arrays. */
pfo_status linear_setup(Linear *l, const pfo_linear_inputs *in, int64_t num_tokens, int32_t products, TileNeeds needs,
                        const pfo_cuda_call *call, const RowView *vectors, int vector_count, pfo_error *error);
/* Takes the workspace that both directions use. hidden_rows: how many rows of hidden are packed at a time. */
void linear_take(Linear *l, Arena *arena, int64_t hidden_rows);

/* Queues what comes first: the list of rows, and the small inputs in float32. */
pfo_status linear_begin(const Linear *l, pfo_error *error);
/* Queues hidden's rows [first, first + count) into the pack at row `at`, where there is one; gives the operand. */
pfo_status linear_take_hidden(const Linear *l, int64_t first, int64_t count, int64_t at, Operand *out,
                              pfo_error *error);
/* The same rows in float32, and lora_hidden [count, r] = hidden lora_a^T into `out`, where there is LoRA. */
pfo_status linear_lora_hidden(const Linear *l, const Cublas &cublas, int64_t first, int64_t count, float *out,
                              Operand *wide, pfo_error *error);
/* Weight's rows of a tile, converted where needed. */
pfo_status linear_take_weight(const Linear *l, int64_t first, int64_t count, Operand *out, pfo_error *error);
/* x of a tile. lora_hidden: of its rows. */
pfo_status linear_logits(const Linear *l, const Cublas &cublas, const Tile &tile, const float *lora_hidden,
                         pfo_error *error);

/* Blocks and threads for `pieces` of the rows of a tile. */
inline unsigned piece_blocks(const Linear *l, int64_t rows)
{
    return unsigned((rows * l->plan.parts + l->plan.rows_per_block - 1) / l->plan.rows_per_block);
}
inline dim3 piece_threads(const Linear *l) { return dim3(unsigned(l->plan.threads), unsigned(l->plan.rows_per_block)); }

/* sums [tile's rows, H] = or += e weight, and lora_sums [.., r] likewise e lora_b, of what was made of x (which 0) or
 * of the moments (1). No sums: LoRA's only. */
pfo_status linear_times_head(const Linear *l, const Cublas &cublas, const Tile &tile, int which, float *sums,
                             float *lora_sums, bool is_first, pfo_error *error);
/* sums [rows, H] += lora_sums [rows, r] lora_a, where there is LoRA. */
pfo_status linear_add_lora(const Linear *l, const Cublas &cublas, int64_t rows, const float *lora_sums, float *sums,
                           pfo_error *error);

inline int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline unsigned blocks_for(int64_t items, unsigned threads)
{
    return unsigned((items + int64_t(threads) - 1) / int64_t(threads));
}

/* ---- a piece of a tile's row (device) -----------------------------------------------------------------------------*/

struct TileView {
    const LinearRow *rows; /* those of the tile */
    float *x;
    int64_t ld, entry; /* entry: of column 0, in the whole vocabulary */
    unsigned count;
    int columns, parts;
};

inline TileView view_of(const Linear *l, const Tile &tile)
{
    return {l->row_list + tile.row, l->x,         l->ld, l->in->vocab_start + tile.entry, unsigned(tile.rows),
            int(tile.columns),      l->plan.parts};
}

/* What the calling team has to do; begins are multiples of PART_STEP, and ends but the last. */
__device__ inline Piece piece_of(const TileView &tile) { return piece_of(tile.count, tile.parts, tile.columns); }
__device__ inline int part_of(const TileView &tile, const Piece &piece)
{
    return int(piece.number - piece.row * unsigned(tile.parts));
}
__device__ inline float *row_of(const TileView &tile, const Piece &piece)
{
    return tile.x + int64_t(piece.row) * tile.ld;
}

/* Eight values of a row. A row's memory goes on to a multiple of eight, so that no piece has a tail. */
constexpr int EIGHT = 8;
__device__ inline void load_eight(const float *from, float *values)
{
    const float4 low = *reinterpret_cast<const float4 *>(from), high = *reinterpret_cast<const float4 *>(from + 4);
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}
__device__ inline void store_eight(float *to, const float *values)
{
    *reinterpret_cast<float4 *>(to) = make_float4(values[0], values[1], values[2], values[3]);
    *reinterpret_cast<float4 *>(to + 4) = make_float4(values[4], values[5], values[6], values[7]);
}

} // namespace pfo

#endif
