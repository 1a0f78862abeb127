/* The fused linear op's tiles: x by cuBLAS, and products of what is made of it with the head. */
#include "elements.cuh"
#include "linear.cuh"

namespace pfo
{

/* ---- x ----------------------------------------------------------------------------------------------------------- */

struct Transform {
    TileView tile;
    const float *bias; /* of column 0, or NULL */
    float to_u, size;  /* u = to_u (z + bias); x = size tanh(u), or u */
    bool has_cap;
};

/* tanh(u) = 1 - 2 / (e^(2u) + 1): no overflow, -1 and 1 at the infinities; off by at most 2e-7. */
__device__ inline float tanh_of(float u)
{
    const float e = Arithmetic<float>::power(u * float(2 * Arithmetic<float>::PER_NAT));
    return 1.0f - 2.0f / (e + 1.0f);
}

/* In place, a team a piece. */
__global__ void __launch_bounds__(BLOCK_THREADS) transform_tile(Transform in)
{
    const Piece piece = piece_of(in.tile);
    if (piece.row >= in.tile.count || in.tile.rows[piece.row].kind == ROW_NONE) return;
    float *x = row_of(in.tile, piece);
    for (int first = piece.begin + int(threadIdx.x) * EIGHT; first < piece.end; first += int(blockDim.x) * EIGHT) {
        float values[EIGHT], bias[EIGHT] = {};
        load_eight(x + first, values);
        if (in.bias) load_eight(in.bias + first, bias); /* tiles begin at multiples of eight */
        PFO_UNROLL
        for (int k = 0; k < EIGHT; k++) {
            const float u = (values[k] + bias[k]) * in.to_u;
            values[k] = in.has_cap ? in.size * tanh_of(u) : u;
        }
        store_eight(x + first, values);
    }
}

pfo_status linear_logits(const Linear *l, const Cublas &cublas, const Tile &tile, const float *lora_hidden,
                         pfo_error *error)
{
    const Operand a = {lora_hidden, l->rank}, b = {l->lora_b + tile.entry * l->rank, l->rank, true};
    const Product by_weight = {tile.rows, tile.columns, l->hidden_size, tile.hidden, transposed(tile.weight), l->x,
                               l->ld,     l->alpha,     0.0f,           l->dtype,    l->logits_tf32};
    const Product by_lora = {tile.rows, tile.columns, l->rank, a, b, l->x, l->ld, l->alpha, 1.0f, PFO_F32, false};
    pfo_status status = cublas.multiply(by_weight, error);
    if (status == PFO_OK && l->rank > 0) status = cublas.multiply(by_lora, error);
    if (status != PFO_OK || !l->has_transform) return status;
    const pfo_linear_inputs *in = l->in;
    const bool has_cap = in->softcap > 0.0;
    const Transform transform = {view_of(l, tile), l->bias ? l->bias + tile.entry : nullptr,
                                 float(in->logit_scale / (has_cap ? in->softcap : in->temperature)),
                                 float(in->softcap / in->temperature), has_cap};
    return launch(l->call, piece_blocks(l, tile.rows), piece_threads(l), transform_tile, error, transform);
}

/* ---- times the head ---------------------------------------------------------------------------------------------- */

pfo_status linear_times_head(const Linear *l, const Cublas &cublas, const Tile &tile, int which, float *sums,
                             float *lora_sums, bool is_first, pfo_error *error)
{
    const float *wide = which == 0 ? l->x : l->moments;
    const void *operand = l->dtype == PFO_BF16 ? static_cast<const void *>(l->narrow[which]) : wide;
    const float keep = is_first ? 0.0f : 1.0f;
    const Product by_weight = {tile.rows,      l->hidden_size, tile.columns, {operand, l->ld}, tile.weight, sums,
                               l->hidden_size, 1.0f,           keep,         l->dtype,         l->grad_tf32};
    const Operand b = {l->lora_b + tile.entry * l->rank, l->rank};
    const Product by_lora = {tile.rows, l->rank, tile.columns, {wide, l->ld}, b,    lora_sums,
                             l->rank,   1.0f,    keep,         PFO_F32,       false};
    pfo_status status = sums ? cublas.multiply(by_weight, error) : PFO_OK;
    if (status == PFO_OK && l->rank > 0) status = cublas.multiply(by_lora, error);
    return status;
}

pfo_status linear_add_lora(const Linear *l, const Cublas &cublas, int64_t rows, const float *lora_sums, float *sums,
                           pfo_error *error)
{
    if (l->rank == 0) return PFO_OK;
    const Product product = {
        rows, l->hidden_size, l->rank, {lora_sums, l->rank}, {l->lora_a, l->hidden_size}, sums, l->hidden_size, 1.0f,
        1.0f, PFO_F32,        false};
    return cublas.multiply(product, error);
}

} // namespace pfo
