// How this process treats the memory that it frees.

#include <cstdint>
#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

extern "C" {

// A training step frees what the next allocates again. Given back to the system in between, it comes back page by page,
// zeroed.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, INT32_MAX);
#endif
}

}  // extern "C"
