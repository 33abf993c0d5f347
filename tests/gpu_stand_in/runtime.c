// CUDA's runtime and cuBLAS without a GPU. Memory of the device is the host's; a kernel or product does nothing.
//
// What depends on no result is as on a GPU: properties of the device, kinds of memory, a limit of memory, streams, and
// what CUDA forbids while a graph is captured. `run.py` adds functions that return 0 for all others that torch needs.

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#undef cudaEventElapsedTime
#undef cudaGetDeviceProperties
#undef cudaStreamGetCaptureInfo

#define MiB (1ul << 20)
#define LARGE (4 * MiB)  // copies on the device of more than this are left out, as they would need memory of the host
#define NAME "NVIDIA H200 (a stand-in)"

static size_t total = 6000 * MiB, used;
static _Thread_local cudaError_t last;

__attribute__((constructor)) static void read_total(void) {
    const char *given = getenv("GPU_STAND_IN_BYTES");
    if (given) total = strtoull(given, NULL, 10);
}

static cudaError_t fail(cudaError_t error) { return last = error; }

// Memory

enum kind { PAGEABLE, DEVICE, PINNED };

static struct block { char *start; size_t size; enum kind kind; } blocks[1 << 16];
static int count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void add(void *start, size_t size, enum kind kind) {
    pthread_mutex_lock(&lock);
    blocks[count++] = (struct block){start, size, kind};
    if (kind == DEVICE) used += size;
    pthread_mutex_unlock(&lock);
}

static void drop(void *start) {
    struct block found = {0};
    pthread_mutex_lock(&lock);
    for (int i = 0; i < count; i++)
        if (blocks[i].start == start) {
            found = blocks[i];
            blocks[i] = blocks[--count];
            if (found.kind == DEVICE) used -= found.size;
            break;
        }
    pthread_mutex_unlock(&lock);
    if (found.kind == DEVICE) munmap(found.start, found.size);
    if (found.kind == PINNED) free(found.start);
}

static enum kind kind_of(const void *p) {
    enum kind kind = PAGEABLE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < count; i++)
        if ((char *)p >= blocks[i].start && (char *)p < blocks[i].start + blocks[i].size) kind = blocks[i].kind;
    pthread_mutex_unlock(&lock);
    return kind;
}

// Streams, and what their capture forbids

struct stream { int captures, is_invalid; };
static struct stream default_stream;
static _Thread_local struct stream *captured;  // by this thread
static _Thread_local enum cudaStreamCaptureMode mode;

static struct stream *of(cudaStream_t s) { return (size_t)s > 2 ? (struct stream *)s : &default_stream; }

static cudaError_t waits(struct stream *s) {
    if (!s && captured && mode != cudaStreamCaptureModeRelaxed) s = captured;
    if (!s || !s->captures) return cudaSuccess;
    s->is_invalid = 1;
    return fail(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaStreamCreate(cudaStream_t *s) { *s = calloc(1, sizeof(struct stream)); return cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) { return cudaStreamCreate(s); }
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *priority) { *priority = 0; return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t s) { return waits(of(s)); }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { cudaError_t e = waits(of(s)); return e ? e : waits(NULL); }
cudaError_t cudaDeviceSynchronize(void) { return waits(NULL); }
cudaError_t cudaEventQuery(cudaEvent_t e) { return waits(NULL); }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { return waits(NULL); }

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode how) {
    if (of(s) == &default_stream) return fail(cudaErrorStreamCaptureUnsupported);
    captured = of(s);
    *captured = (struct stream){1, 0};
    mode = how;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph) {
    int is_invalid = of(s)->is_invalid;
    *of(s) = (struct stream){0, 0};
    captured = NULL;
    mode = cudaStreamCaptureModeGlobal;
    *graph = is_invalid ? NULL : calloc(1, 16);
    return is_invalid ? fail(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    *status = !of(s)->captures ? cudaStreamCaptureStatusNone
              : of(s)->is_invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *n) {
    if (id) *id = (unsigned long long)of(s);
    if (graph) *graph = NULL;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (n) *n = 0;
    return cudaStreamIsCapturing(s, status);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *given) {
    enum cudaStreamCaptureMode before = mode;
    mode = *given;
    *given = before;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags) {
    *exec = calloc(1, 16);
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n) { *n = 1; return cudaSuccess; }

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t function, void *data) { function(data); return cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) { *e = calloc(1, 16); return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) { *ms = 1; return cudaSuccess; }

// Allocation and copies

cudaError_t cudaMalloc(void **p, size_t size) {
    cudaError_t error = waits(NULL);
    size_t rounded = (size + 2 * MiB - 1) / (2 * MiB) * (2 * MiB);
    *p = NULL;
    if (error) return error;
    if (used + rounded > total) return fail(cudaErrorMemoryAllocation);
    void *start = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
    add(*p = start, rounded, DEVICE);
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    cudaError_t error = waits(NULL);
    if (!error && p) drop(p);
    return error;
}

cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags) {
    *p = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    add(*p, size, PINNED);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) { drop(p); return cudaSuccess; }

cudaError_t cudaMemGetInfo(size_t *free, size_t *all) { *all = total; *free = total - used; return cudaSuccess; }

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind direction, cudaStream_t s) {
    enum kind a = kind_of(to), b = kind_of(from);
    if (a == PAGEABLE || b == PAGEABLE) {
        cudaError_t error = waits(of(s));
        if (error) return error;
    }
    if (size <= LARGE || a != DEVICE || b != DEVICE) memmove(to, from, size);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind direction) {
    cudaError_t error = waits(NULL);
    return error ? error : cudaMemcpyAsync(to, from, size, direction, NULL);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t s) {
    if (value || size <= LARGE) memset(p, value, size);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *p, int value, size_t size) { return cudaMemsetAsync(p, value, size, NULL); }

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *p) {
    enum kind kind = kind_of(p);
    memset(found, 0, sizeof *found);
    found->type = kind == DEVICE ? cudaMemoryTypeDevice : kind == PINNED ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    found->devicePointer = found->hostPointer = (void *)p;
    return cudaSuccess;
}

cudaError_t cudaGetSymbolAddress(void **p, const void *symbol) {
    static char memory[1 << 16];
    *p = memory;
    return cudaSuccess;
}

// The device

cudaError_t cudaGetDeviceCount(int *n) { *n = 1; return cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { *device = 0; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device ? fail(cudaErrorInvalidDevice) : cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) { *can = 0; return cudaSuccess; }

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    *p = (struct cudaDeviceProp){
        .name = NAME, .totalGlobalMem = total, .major = 9, .minor = 0, .multiProcessorCount = 132, .warpSize = 32,
        .maxThreadsPerBlock = 1024, .maxThreadsDim = {1024, 1024, 64}, .maxGridSize = {2147483647, 65535, 65535},
        .maxThreadsPerMultiProcessor = 2048, .regsPerBlock = 65536, .regsPerMultiprocessor = 65536,
        .sharedMemPerBlock = 49152, .sharedMemPerBlockOptin = 232448, .sharedMemPerMultiprocessor = 233472,
        .l2CacheSize = 60 * MiB, .unifiedAddressing = 1, .concurrentKernels = 1, .maxBlocksPerMultiProcessor = 32,
    };
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    struct cudaDeviceProp p;
    cudaGetDeviceProperties(&p, device);
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
        case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = p.sharedMemPerBlock; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = p.sharedMemPerBlockOptin; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
        case cudaDevAttrWarpSize: *value = p.warpSize; break;
        default: *value = 1;
    }
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) { cudaError_t error = last; last = cudaSuccess; return error; }
cudaError_t cudaPeekAtLastError(void) { return last; }
const char *cudaGetErrorName(cudaError_t error) { return "cudaError"; }

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
        case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
        default: return "an error of the stand-in";
    }
}

// Of the driver: the context is there

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
    *flags = 0;
    *is_active = 1;
    return 0;
}

// Kernels, which are registered when torch is loaded and launched by what nvcc has made of `<<< >>>`

void **__cudaRegisterFatBinary(void *binary) { static void *handle[2]; return handle; }
char __cudaInitModule(void **handle) { return 1; }

static _Thread_local struct { dim3 grid, block; size_t shared; cudaStream_t stream; } calls[16];
static _Thread_local int depth;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    calls[depth].grid = grid;
    calls[depth].block = block;
    calls[depth].shared = shared;
    calls[depth++].stream = stream;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = calls[--depth].grid;
    *block = calls[depth].block;
    *shared = calls[depth].shared;
    *(cudaStream_t *)stream = calls[depth].stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host) { *kernel = (cudaKernel_t)host; return cudaSuccess; }

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *kernel) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->binaryVersion = found->ptxVersion = 90;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *kernel, int size, size_t shared,
                                                                   unsigned flags) {
    *n = 2;
    return cudaSuccess;
}

// cuBLAS: handles must not be NULL, and one algorithm is found

#define HANDLE(name) int name(void **handle) { *handle = calloc(1, 256); return 0; }
HANDLE(cublasCreate_v2)
HANDLE(cublasLtMatmulDescCreate)
HANDLE(cublasLtMatrixLayoutCreate)
HANDLE(cublasLtMatmulPreferenceCreate)

int cublasGetPointerMode_v2(void *handle, int *value) { return *value = 0; }
int cublasGetMathMode(void *handle, int *value) { return *value = 0; }

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                   int asked, void *results, int *n) {
    memset(results, 0, 96 * asked);  // of cublasLtMatmulHeuristicResult_t
    *n = 1;
    return 0;
}
