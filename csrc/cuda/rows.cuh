/* The rows of an operation, [...] for kernels: leading axes seen as [outer, inner], whatever there were. */
#ifndef PFO_CUDA_ROWS_CUH
#define PFO_CUDA_ROWS_CUH

#include "host.cuh"
#include "report.cuh"

namespace pfo
{

/* One array; row r is at data + (r / inner) * strides[0] + (r % inner) * strides[1]. */
struct RowArray {
    char *data;         /* NULL: absent */
    int64_t strides[2]; /* bytes */
    int32_t dtype;
};

struct Rows {
    unsigned count, inner;
};

struct Row {
    unsigned outer, inner;
};

__device__ inline Row row_of(const Rows &rows, unsigned index)
{
    if (index < rows.inner) return {0, index}; /* no division where all axes step as one */
    return {index / rows.inner, index % rows.inner};
}

__device__ inline char *row_at(const RowArray &array, Row row)
{
    return array.data + row.outer * array.strides[0] + row.inner * array.strides[1];
}

/* ---- single elements ----------------------------------------------------------------------------------------------*/

/* An integer of any dtype; a uint64 beyond int64 becomes the lowest value, which no label is. */
__device__ inline int64_t read_int(const char *address, int dtype)
{
    switch (dtype) {
    case PFO_I8: return *reinterpret_cast<const int8_t *>(address);
    case PFO_I16: return *reinterpret_cast<const int16_t *>(address);
    case PFO_I32: return *reinterpret_cast<const int32_t *>(address);
    case PFO_I64: return *reinterpret_cast<const int64_t *>(address);
    case PFO_BOOL:
    case PFO_U8: return *reinterpret_cast<const uint8_t *>(address);
    case PFO_U16: return *reinterpret_cast<const uint16_t *>(address);
    case PFO_U32: return *reinterpret_cast<const uint32_t *>(address);
    default: {
        const uint64_t value = *reinterpret_cast<const uint64_t *>(address);
        return value > uint64_t(INT64_MAX) ? INT64_MIN : int64_t(value);
    }
    }
}

__device__ inline double read_float(const char *address, int dtype)
{
    switch (dtype) {
    case PFO_F16: return double(__half2float(*reinterpret_cast<const __half *>(address)));
    case PFO_BF16: return double(__bfloat162float(*reinterpret_cast<const __nv_bfloat16 *>(address)));
    case PFO_F32: return double(*reinterpret_cast<const float *>(address));
    default: return *reinterpret_cast<const double *>(address);
    }
}

__device__ inline double read_float(const RowArray &array, Row row, double absent)
{
    return array.data ? read_float(row_at(array, row), array.dtype) : absent;
}

/* Into a float32, float64 or bool array; nothing where it is absent. */
__device__ inline void write_value(const RowArray &array, Row row, double value)
{
    if (!array.data) return;
    char *address = row_at(array, row);
    if (array.dtype == PFO_F32)
        *reinterpret_cast<float *>(address) = float(value);
    else if (array.dtype == PFO_F64)
        *reinterpret_cast<double *>(address) = value;
    else
        *reinterpret_cast<uint8_t *>(address) = value != 0.0;
}

/* ---- from views (host) ------------------------------------------------------------------------------------------- */

/* An array and how many of its last axes belong to a row; a view that is absent stays so. */
struct RowView {
    const pfo_view *view;
    int trailing;
    RowArray *out;
};

/* Fills *rows and every array from views of one leading shape, that of the first.  PFO_ERROR_STRIDE where no two axes
 * do, PFO_ERROR_SHAPE for 2^31 rows and more. */
pfo_status split_rows(const RowView *views, int count, Rows *rows, pfo_error *error);

/* The vocabulary of checked logits as an int, or PFO_ERROR_SHAPE. */
pfo_status vocab_of(const pfo_view *logits, const char *name, int *vocab, pfo_error *error);

} // namespace pfo

#endif
