// What this machine can do at most, as JSON on one line: bytes per second read from memory, fp32
// operations per second (a fused multiply-add is two) and int8 ones (products and their sums, by
// AVX-512 VNNI or AVX2, whichever the machine has; else 0), by all threads together, best of
// several passes.
//   cc -O3 -march=native -pthread machine_ceilings.c -o machine_ceilings
//   ./machine_ceilings [THREADS]

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

enum { kMaxThreads = 256, kPasses = 7, kAccumulators = 12 };
static const size_t kBytesPerThread = 256u << 20;  // far more than a cache holds
static const long kRounds = 20 * 1000 * 1000;

#ifdef __AVX512F__
#define VECTOR_BYTES 64
#else
#define VECTOR_BYTES 32
#endif
typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t Words __attribute__((vector_size(VECTOR_BYTES)));

static int threads;
static pthread_barrier_t barrier;
static Words* memory[kMaxThreads];
static volatile uint64_t sink;

static double Now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Each kernel returns how much it did: bytes or operations.
static double ReadMemory(int thread) {
  const size_t count = kBytesPerThread / sizeof(Words);
  const Words* data = memory[thread];
  Words sum[4] = {{0}};
  for (size_t i = 0; i < count; i += 4) {
    for (int k = 0; k < 4; ++k) sum[k] ^= data[i + k];
  }
  sink += sum[0][0] ^ sum[1][0] ^ sum[2][0] ^ sum[3][0];
  return (double)kBytesPerThread;
}

static double MultiplyAddFp32(int thread) {
  Floats a[kAccumulators];
  const Floats b = (Floats){0} + (0.5f + 1e-3f * (float)thread), c = (Floats){0} + 1.0f;
  for (int k = 0; k < kAccumulators; ++k) a[k] = (Floats){0} + (float)k;
  for (long i = 0; i < kRounds; ++i) {
    for (int k = 0; k < kAccumulators; ++k) a[k] = a[k] * b + c;
  }
  for (int k = 0; k < kAccumulators; ++k) sink += (uint64_t)a[k][0];
  return 2.0 * (VECTOR_BYTES / sizeof(float)) * kAccumulators * (double)kRounds;
}

#ifdef __AVX2__
static double MultiplyAddInt8(int thread __attribute__((unused))) {
#ifdef __AVX512VNNI__
  typedef int32_t Sums __attribute__((vector_size(64)));
#define DOT(sum, x, y) (Sums) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(x), (__m512i)(y))
#else
  // Summed in int16, as small products (4-bit weights) can be for a while; widening comes on top.
  typedef int16_t Sums __attribute__((vector_size(32)));
#define DOT(sum, x, y) (sum) + (Sums)_mm256_maddubs_epi16((__m256i)(x), (__m256i)(y))
#endif
  Sums sums[kAccumulators], x = (Sums){0} + 1;
  const Sums y = (Sums){0} + 3;
  for (int k = 0; k < kAccumulators; ++k) sums[k] = (Sums){0};
  for (long i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int k = 0; k < kAccumulators; ++k) {
      sums[k] = DOT(sums[k], x, y);
      __asm__("" : "+x"(x));  // or the product would be computed once
    }
  }
  for (int k = 0; k < kAccumulators; ++k) sink += (uint64_t)sums[k][0];
  return 2.0 * sizeof(Sums) * kAccumulators * (double)kRounds;
}
#endif

struct Job {
  int thread;
  double (*kernel)(int thread);
  double per_second;  // of all threads together, best pass; set for thread 0
};

static void* Run(void* argument) {
  struct Job* job = argument;
  for (int pass = 0; pass < kPasses; ++pass) {
    pthread_barrier_wait(&barrier);
    const double start = Now();
    const double done = job->kernel(job->thread) * threads;
    pthread_barrier_wait(&barrier);
    const double per_second = done / (Now() - start);
    if (per_second > job->per_second) job->per_second = per_second;
  }
  return NULL;
}

static double Best(double (*kernel)(int thread)) {
  pthread_t handles[kMaxThreads];
  struct Job jobs[kMaxThreads];
  for (int i = 0; i < threads; ++i) {
    jobs[i] = (struct Job){i, kernel, 0};
    pthread_create(&handles[i], NULL, Run, &jobs[i]);
  }
  for (int i = 0; i < threads; ++i) pthread_join(handles[i], NULL);
  return jobs[0].per_second;
}

int main(int argc, char** argv) {
  threads = argc > 1 ? atoi(argv[1]) : (int)sysconf(_SC_NPROCESSORS_ONLN);
  if (threads < 1 || threads > kMaxThreads) {
    fprintf(stderr, "machine_ceilings: threads must be 1 to %d\n", kMaxThreads);
    return 1;
  }
  pthread_barrier_init(&barrier, NULL, (unsigned)threads);
  for (int i = 0; i < threads; ++i) {
    memory[i] = aligned_alloc(4096, kBytesPerThread);
    if (memory[i] == NULL) {
      fprintf(stderr, "machine_ceilings: no memory\n");
      return 1;
    }
    memset(memory[i], i + 1, kBytesPerThread);
  }
  const double bytes = Best(ReadMemory);
  const double fp32 = Best(MultiplyAddFp32);
#ifdef __AVX2__
  const double int8 = Best(MultiplyAddInt8);
#else
  const double int8 = 0;
#endif
  printf(
      "{\"threads\": %d, \"read_bytes_per_second\": %.4g, \"fp32_flops_per_second\": %.4g, "
      "\"int8_operations_per_second\": %.4g}\n",
      threads, bytes, fp32, int8);
  return 0;
}
