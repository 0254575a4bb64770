/* A stand-in for libcuda.so.1 where there is no NVIDIA driver, so that cuDNN, which links it, loads all of its parts and
   lists plans for a GPU that is described. Every call answers CUDA_ERROR_NO_DEVICE (100). deviceless.py compiles it on
   the machine that needs it, and loads it into a process that does nothing else. */
#define ANSWERS(name) int name(void) { return 100; }
ANSWERS(cuInit) ANSWERS(cuDeviceGet)
ANSWERS(cuGetErrorString) ANSWERS(cuGetErrorName)
ANSWERS(cuModuleGetFunction) ANSWERS(cuModuleLoadData) ANSWERS(cuModuleUnload)
ANSWERS(cuTensorMapEncodeIm2col) ANSWERS(cuTensorMapEncodeTiled)
ANSWERS(cuCtxGetCurrent) ANSWERS(cuCtxGetLimit) ANSWERS(cuCtxPopCurrent) ANSWERS(cuCtxPushCurrent)
ANSWERS(cuStreamGetCtx)
ANSWERS(cuLinkCreate) ANSWERS(cuLinkCreate_v2) ANSWERS(cuLinkAddData) ANSWERS(cuLinkAddData_v2)
ANSWERS(cuLinkComplete) ANSWERS(cuLinkDestroy)
ANSWERS(cuLaunchKernel) ANSWERS(cuLaunchCooperativeKernel) ANSWERS(cuLaunchKernelEx)
ANSWERS(cuLibraryLoadData) ANSWERS(cuLibraryLoadFromFile) ANSWERS(cuLibraryGetKernel) ANSWERS(cuLibraryUnload)
ANSWERS(cuKernelSetAttribute) ANSWERS(cuKernelGetAttribute) ANSWERS(cuKernelGetFunction)
ANSWERS(cuOccupancyMaxPotentialClusterSize)

int cuDeviceGetCount(int *count)
{
    if (count) *count = 0;
    return 100;
}

int cuDriverGetVersion(int *version)
{
    if (version) *version = 13000;
    return 0;
}
