/* The library's own state: what was built, whether it can run here, errors, the report of bad values. */
#include <stdio.h>

#include <atomic>

#include "host.cuh"
#include "report.cuh"

extern "C" {
#include "../losses/program.h"
}

#define PFO_STRING_OF(x) #x
#define PFO_STRING(x) PFO_STRING_OF(x)
#if defined(__CUDACC_VER_MAJOR__)
#define PFO_NVCC PFO_STRING(__CUDACC_VER_MAJOR__) "." PFO_STRING(__CUDACC_VER_MINOR__)
#else
#define PFO_NVCC "none"
#endif
#if !defined(PFO_CUDA_ARCHITECTURES)
#define PFO_CUDA_ARCHITECTURES none
#endif

const char *pfo_cuda_build_info(void)
{
    return "version=" PFO_VERSION " nvcc=" PFO_NVCC " architectures=" PFO_STRING(PFO_CUDA_ARCHITECTURES);
}

namespace pfo
{

pfo_status fail_cuda(pfo_error *error, cudaError_t code, const char *what)
{
    cudaGetLastError(); /* so that the next call does not find it */
    return pfo_fail(error, PFO_ERROR_DEVICE, "cuda", -1, "%s: %s (%s)", what, cudaGetErrorString(code),
                    cudaGetErrorName(code));
}

int multiprocessors(const pfo_cuda_call *call)
{
    int count = 0;
    if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, call->device) != cudaSuccess) cudaGetLastError();
    return count > 0 ? count : 1;
}

} // namespace pfo

/* ---- whether it can run here ------------------------------------------------------------------------------------ */

static pfo_cuda_state unusable(pfo_cuda_state state, pfo_error *error, const char *words)
{
    pfo_fail(error, PFO_ERROR_DEVICE, "cuda", -1, "%s", words);
    return state;
}

pfo_cuda_state pfo_cuda_probe(int32_t *devices, pfo_error *error)
{
    pfo_clear(error);
    *devices = 0;
    int count = 0; /* an error leaves it unwritten */
    const cudaError_t code = cudaGetDeviceCount(&count);
    cudaGetLastError();
    if (code == cudaSuccess && count > 0) {
        *devices = count;
        return PFO_CUDA_OK;
    }
    if (code == cudaErrorNoDevice || code == cudaSuccess) return unusable(PFO_CUDA_NO_DEVICE, error, "no device");
    /* cudaErrorInsufficientDriver is both; without a driver its version is 0. */
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (code == cudaErrorInsufficientDriver && driver == 0) return unusable(PFO_CUDA_NO_DRIVER, error, "no driver");
    if (code == cudaErrorInsufficientDriver) {
        char words[160];
        snprintf(words, sizeof words, "driver too old: it supports CUDA %d.%d, this library needs %d.%d", driver / 1000,
                 driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
        return unusable(PFO_CUDA_DRIVER_TOO_OLD, error, words);
    }
    pfo::fail_cuda(error, code, "looking for devices");
    return PFO_CUDA_UNUSABLE;
}

/* ---- the report -------------------------------------------------------------------------------------------------- */

static const char *argument_of(int kind)
{
    switch (kind) {
    case pfo::REPORT_LABELS: return "labels";
    case pfo::REPORT_CU_SEQLENS: return "cu_seqlens";
    case pfo::REPORT_MASK: return "mask";
    case pfo::REPORT_NORMALIZER: return "normalizer";
    default: return pfo_bad_name(kind - pfo::REPORT_LOSS_INPUT);
    }
}

/* Device memory that comes with the library: one on every device, 0 until a kernel meets a bad value. */
__device__ uint64_t pfo_cuda_report_word;

constexpr int MAX_DEVICES = 64;
static std::atomic<uint64_t *> report_addresses[MAX_DEVICES]; /* of the devices that were used */

static pfo_status check_workspace(const pfo_cuda_call *call, int64_t needed, pfo_error *error)
{
    if (call->workspace_bytes < needed || (needed > 0 && !call->workspace))
        return pfo_fail(error, PFO_ERROR_MEMORY, "workspace", -1, "expected %lld bytes, got %lld", (long long)needed,
                        (long long)(call->workspace ? call->workspace_bytes : 0));
    if (needed > 0 && reinterpret_cast<uintptr_t>(call->workspace) % uintptr_t(pfo::WORKSPACE_ALIGNMENT) != 0)
        return pfo_fail(error, PFO_ERROR_STRIDE, "workspace", -1, "expected an address aligned to %d bytes",
                        int(pfo::WORKSPACE_ALIGNMENT));
    return PFO_OK;
}

/* The report of the current device. */
static cudaError_t find_report(int device, uint64_t **report)
{
    *report = report_addresses[device];
    if (*report) return cudaSuccess;
    void *address = nullptr;
    const cudaError_t code = cudaGetSymbolAddress(&address, pfo_cuda_report_word);
    *report = static_cast<uint64_t *>(address);
    if (code == cudaSuccess) report_addresses[device] = *report;
    return code;
}

namespace pfo
{

OnDevice::OnDevice(const pfo_cuda_call *call, int64_t workspace_bytes, pfo_error *error)
    : status(check_workspace(call, workspace_bytes, error))
{
    if (status != PFO_OK) return;
    const bool is_known = call->device >= 0 && call->device < MAX_DEVICES;
    cudaError_t code = is_known ? cudaGetDevice(&before) : cudaErrorInvalidDevice;
    if (code == cudaSuccess && before != call->device) {
        code = cudaSetDevice(call->device);
        changed = code == cudaSuccess;
    }
    if (code == cudaSuccess) code = find_report(call->device, &report);
    if (code != cudaSuccess) status = fail_cuda(error, code, "making the device current");
}

OnDevice::~OnDevice()
{
    if (changed) cudaSetDevice(before);
}

} // namespace pfo

static pfo_status check_device(int device, pfo_error *error)
{
    const pfo_cuda_call call = {nullptr, nullptr, 0, device};
    const pfo::OnDevice on(&call, 0, error);
    if (on.status != PFO_OK) return on.status;
    uint64_t word = 0;
    cudaError_t code = cudaDeviceSynchronize();
    if (code == cudaSuccess) code = cudaMemcpy(&word, on.report, sizeof word, cudaMemcpyDeviceToHost);
    if (code == cudaSuccess && word != 0) code = cudaMemset(on.report, 0, sizeof word);
    if (code != cudaSuccess) return pfo::fail_cuda(error, code, "reading the report of bad values");
    if (word == 0) return PFO_OK;
    const int kind = pfo::report_kind(word);
    const auto index = static_cast<long long>(pfo::report_index(word));
    if (kind == pfo::REPORT_LABELS)
        return pfo_fail(error, PFO_ERROR_LABEL, "labels", index,
                        "expected ignore_index or 0 <= label < vocab, got another value at index %lld", index);
    if (kind == pfo::REPORT_NUM_TOKENS)
        return pfo_fail(error, PFO_ERROR_VALUE, "num_tokens", index,
                        "expected at least %lld, the number of labels that are not ignored", index);
    return pfo_fail(error, PFO_ERROR_VALUE, argument_of(kind), index, "got a value out of its range at index %lld",
                    index);
}

pfo_status pfo_cuda_check(int32_t device, pfo_error *error)
{
    pfo_clear(error);
    pfo_status status = PFO_OK;
    for (int each = 0; each < MAX_DEVICES && status == PFO_OK; each++) {
        if (report_addresses[each] && (device < 0 || device == each)) status = check_device(each, error);
    }
    return status;
}
