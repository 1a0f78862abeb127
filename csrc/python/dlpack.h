/* DLPack's C structures, as its specification publishes them (dmlc/dlpack, dlpack.h, Apache-2.0): the parts read here.
 * */
#ifndef PFO_DLPACK_H
#define PFO_DLPACK_H

#include <stdint.h>

enum {
    PFO_DL_CPU = 1,
    PFO_DL_CUDA_HOST = 3
};
enum {
    PFO_DL_INT = 0,
    PFO_DL_UINT = 1,
    PFO_DL_FLOAT = 2,
    PFO_DL_BFLOAT = 4,
    PFO_DL_BOOL = 6
};
#define PFO_DL_READ_ONLY 1u

typedef struct pfo_dl_tensor {
    void *data;
    struct {
        int32_t device_type, device_id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape;
    int64_t *strides; /* elements; NULL: C-contiguous */
    uint64_t byte_offset;
} pfo_dl_tensor;

typedef struct pfo_dl_managed {
    pfo_dl_tensor tensor;
    void *manager;
    void (*deleter)(struct pfo_dl_managed *);
} pfo_dl_managed;

typedef struct pfo_dl_versioned {
    struct {
        uint32_t major, minor;
    } version;
    void *manager;
    void (*deleter)(struct pfo_dl_versioned *);
    uint64_t flags;
    pfo_dl_tensor tensor;
} pfo_dl_versioned;

#endif
