/* A CUDA driver of one stream and one graph on the processor, for the real cuda-bindings to call. Work is kept until
   somebody waits; under capture it goes into the graph; waiting under capture is an error. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID_VALUE = 1, INVALID_CONTEXT = 201, UNSUPPORTED = 900, INVALIDATED = 901 };
typedef struct { unsigned char *target; unsigned char value; size_t size; } Fill;
typedef struct { int count; Fill fills[8]; } Work;

static int contexts, streams, graphs, executables;
static Work queue, captured;
static int is_capturing, is_valid;

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGet(int *device, int index) { *device = 0; return index; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &contexts; return 0; }
int cuCtxPushCurrent_v2(void *context) { contexts++; return 0; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = &streams; streams++; return 0; }
int cuStreamDestroy_v2(void *stream) { streams--; return 0; }

int cuMemsetD8Async(unsigned long long target, unsigned char value, size_t size, void *stream) {
    Work *work = is_capturing ? &captured : &queue;
    if (!contexts || stream != &streams) return INVALID_CONTEXT;
    work->fills[work->count++] = (Fill){(unsigned char *)target, value, size};
    return 0;
}

int cuStreamSynchronize(void *stream) {
    if (is_capturing) { is_valid = 0; return UNSUPPORTED; }
    for (int i = 0; i < queue.count; i++) memset(queue.fills[i].target, queue.fills[i].value, queue.fills[i].size);
    queue.count = 0;
    return 0;
}

int cuStreamBeginCapture_v2(void *stream, int mode) {
    const int thread_local_mode = 1;
    if (stream != &streams || mode != thread_local_mode) return INVALID_VALUE;
    is_capturing = is_valid = 1;
    captured.count = 0;
    return 0;
}

int cuStreamEndCapture(void *stream, void **graph) {
    is_capturing = 0;
    *graph = is_valid ? &captured : NULL;
    graphs += is_valid;
    return is_valid ? 0 : INVALIDATED;
}

int cuGraphInstantiateWithFlags(Work **executable, Work *graph, unsigned long long flags) {
    if (graph != &captured || flags) return INVALID_VALUE;
    *executable = malloc(sizeof(Work));
    **executable = *graph;
    executables++;
    return 0;
}

int cuGraphLaunch(Work *executable, void *stream) {
    if (stream != &streams) return INVALID_VALUE;
    for (int i = 0; i < executable->count; i++) queue.fills[queue.count++] = executable->fills[i];
    return 0;
}

int cuGraphDestroy(void *graph) { graphs--; return 0; }
int cuGraphExecDestroy(Work *executable) { executables--; free(executable); return 0; }
int alive(void) { return 100 * streams + 10 * graphs + executables; }

int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *status) {
    static const char *suffixes[] = {"_v2", "", "WithFlags"};
    *function = NULL;
    for (int i = 0; i < 3 && !*function; i++) {
        char symbol[128];
        snprintf(symbol, sizeof symbol, "%s%s", name, suffixes[i]);
        void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
        *function = library ? dlsym(library, symbol) : NULL;
    }
    if (status) *status = !*function;
    return 0;
}
