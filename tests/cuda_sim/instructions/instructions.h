/* The operations of operations.inc, for main.cpp. */
#ifndef CUDA_SIM_INSTRUCTIONS_H
#define CUDA_SIM_INSTRUCTIONS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct instruction {
    const char *name;
    const char *inputs[3]; /* F D S16 U16 S32 U32 S64 U64 H B H2 B2 */
    const char *result;
    int ulps; /* by which the two sides may differ */
    int result_bytes;
    int (*launch)(const void *a, const void *b, const void *c, void *out, int count); /* device pointers */
} instruction;

/* collectives.cu: one block of 64 threads; out [COLLECTIVES, 64]. What each row holds is said there and, in the same
 * order, worked out by main.cpp. */
enum {
    COLLECTIVES = 22,
    COLLECTIVE_THREADS = 64
};
int collectives_run(const unsigned *in, unsigned *out, unsigned *counters, unsigned long long *wide_counters);

int instruction_count(void);
const instruction *instruction_at(int index);

#ifdef __cplusplus
}
#endif

#endif
