/* Memory: mappings without a file, the program break, and the allocator on top of them. */
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>

#include "check.h"

enum { PAGE = 4096, PROT_RW = PROT_READ | PROT_WRITE, MAP_PRIVATE_ANON = MAP_PRIVATE | MAP_ANONYMOUS };

static char *map(size_t pages) {
    char *address = mmap(NULL, pages * PAGE, PROT_RW, MAP_PRIVATE_ANON, -1, 0);
    require(address != MAP_FAILED, "mmap");
    return address;
}

static int holds(const char *address, size_t length, char byte) {
    for (size_t i = 0; i < length; i++)
        if (address[i] != byte)
            return 0;
    return 1;
}

static void mappings(void) {
    char *area = CHECK_ADDRESS(mmap(NULL, 8 * PAGE, PROT_RW, MAP_PRIVATE_ANON, -1, 0));
    require(area != MAP_FAILED, "mmap");
    CHECK_THAT((uintptr_t)area % PAGE == 0);
    CHECK_THAT(holds(area, 8 * PAGE, 0));
    memset(area, 'x', 8 * PAGE);
    CHECK(munmap(area + 2 * PAGE, 2 * PAGE));
    CHECK(munmap(area + 2 * PAGE, 2 * PAGE));
    CHECK_THAT(holds(area, 2 * PAGE, 'x') && holds(area + 4 * PAGE, 4 * PAGE, 'x'));
    char *hole = mmap(area + 2 * PAGE, PAGE, PROT_RW, MAP_PRIVATE_ANON, -1, 0);
    CHECK_THAT(hole == area + 2 * PAGE && holds(hole, PAGE, 0));
    char *over = mmap(area + PAGE, PAGE, PROT_RW, MAP_PRIVATE_ANON | MAP_FIXED, -1, 0);
    CHECK_THAT(over == area + PAGE && holds(over, PAGE, 0) && holds(area, PAGE, 'x'));
    CHECK_ADDRESS(mmap(area, PAGE, PROT_RW, MAP_PRIVATE_ANON | MAP_FIXED_NOREPLACE, -1, 0));
    char *elsewhere = mmap(area, PAGE, PROT_RW, MAP_PRIVATE_ANON, -1, 0);
    CHECK_THAT(elsewhere != MAP_FAILED && elsewhere != area);
    CHECK(munmap(area, 8 * PAGE));
    CHECK_ADDRESS(mmap(NULL, 1, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    CHECK_ADDRESS(mmap(NULL, 16 * PAGE, PROT_NONE, MAP_PRIVATE_ANON | MAP_NORESERVE, -1, 0));
    CHECK_ADDRESS(mmap(NULL, 16 * PAGE, PROT_RW, MAP_PRIVATE_ANON | MAP_STACK | MAP_POPULATE, -1, 0));
}

static void mapping_errors(void) {
    char *area = map(1);
    CHECK_ADDRESS(mmap(NULL, 0, PROT_RW, MAP_PRIVATE_ANON, -1, 0));
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_RW, MAP_ANONYMOUS, -1, 0));
    CHECK_ADDRESS(mmap(area + 1, PAGE, PROT_RW, MAP_PRIVATE_ANON | MAP_FIXED, -1, 0));
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0));
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 999, 0));
    CHECK_ADDRESS(mmap(NULL, 1UL << 47, PROT_RW, MAP_PRIVATE_ANON, -1, 0));
    CHECK_ADDRESS(mmap(NULL, SIZE_MAX, PROT_RW, MAP_PRIVATE_ANON, -1, 0));
    CHECK(munmap(area + 1, PAGE));
    CHECK(munmap(area, 0));
    CHECK(munmap((void *)(1UL << 63), PAGE));
    CHECK(mprotect(area, PAGE, PROT_READ));
    CHECK(mprotect(area, PAGE, PROT_RW));
    CHECK(mprotect(area + 1, PAGE, PROT_READ));
    CHECK(munmap(area, PAGE));
    CHECK(mprotect(area, PAGE, PROT_READ));
}

static void remapping(void) {
    char *area = map(4), *taken;
    memset(area, 'y', 4 * PAGE);
    area = CHECK_ADDRESS(mremap(area, 4 * PAGE, 1024 * PAGE, MREMAP_MAYMOVE));
    require(area != MAP_FAILED, "mremap");
    CHECK_THAT(holds(area, 4 * PAGE, 'y') && holds(area + 4 * PAGE, 1020 * PAGE, 0));
    memset(area, 'z', 1024 * PAGE);
    CHECK_THAT(mremap(area, 1024 * PAGE, 2 * PAGE, 0) == area);
    CHECK_THAT(holds(area, 2 * PAGE, 'z'));
    taken = mmap(area + 2 * PAGE, PAGE, PROT_RW, MAP_PRIVATE_ANON | MAP_FIXED, -1, 0);
    CHECK_THAT(taken == area + 2 * PAGE && holds(taken, PAGE, 0));
    CHECK_ADDRESS(mremap(area, 2 * PAGE, 4 * PAGE, 0));
    CHECK_THAT(mremap(area, 2 * PAGE, 2 * PAGE, 0) == area);
    CHECK_ADDRESS(mremap(area + 1, PAGE, PAGE, MREMAP_MAYMOVE));
    CHECK_ADDRESS(mremap(area, PAGE, 0, MREMAP_MAYMOVE));
    CHECK_ADDRESS(mremap(area, PAGE, 2 * PAGE, 64));
    CHECK_ADDRESS(mremap(area, PAGE, PAGE, MREMAP_FIXED, taken));
    CHECK(munmap(area, 2 * PAGE));
    CHECK_ADDRESS(mremap(area, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    char *target = map(2), *source = map(2);
    CHECK_ADDRESS(mremap(source, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target));
}

static void advice(void) {
    char *area = map(4);
    memset(area, 'q', 4 * PAGE);
    CHECK(madvise(area + PAGE, PAGE, MADV_DONTNEED));
    CHECK_THAT(holds(area, PAGE, 'q') && holds(area + PAGE, PAGE, 0) && holds(area + 2 * PAGE, 2 * PAGE, 'q'));
    CHECK(madvise(area, 4 * PAGE, MADV_WILLNEED));
    CHECK(madvise(area, 4 * PAGE, MADV_RANDOM));
    CHECK(madvise(area, 4 * PAGE, MADV_NORMAL));
    CHECK(madvise(area, 0, MADV_DONTNEED));
    CHECK(madvise(area + 1, PAGE, MADV_DONTNEED));
    CHECK(madvise(area, PAGE, 999));
    CHECK(madvise(area, PAGE, MADV_FREE));
    CHECK(munmap(area + 3 * PAGE, PAGE));
    CHECK(madvise(area, 4 * PAGE, MADV_DONTNEED));
    CHECK_THAT(holds(area, 3 * PAGE, 0));
}

static void held_in_memory(void) {
    char *area = map(2);
    memset(area, 'l', 2 * PAGE);
    CHECK(mlock(area, 2 * PAGE));
    CHECK(munlock(area, 2 * PAGE));
    CHECK(msync(area, 2 * PAGE, MS_SYNC));
    CHECK_THAT(holds(area, 2 * PAGE, 'l'));
}

static void program_break(void) {
    char *start = sbrk(0);
    CHECK_THAT(sbrk(1 << 20) == start);
    CHECK_THAT((char *)sbrk(0) == start + (1 << 20));
    CHECK_THAT(holds(start, 1 << 20, 0));
    memset(start, 'b', 1 << 20);
    CHECK(brk(start + PAGE));
    CHECK(brk(start + (1 << 20)));
    CHECK_THAT(holds(start, PAGE, 'b'));
    CHECK_THAT(holds((char *)(((uintptr_t)start + 2 * PAGE) & -(uintptr_t)PAGE), PAGE, 0));
    CHECK_ADDRESS(sbrk(1L << 47));
    CHECK(brk((void *)1));
    CHECK_THAT((char *)sbrk(0) == start + (1 << 20));
    CHECK(brk(start));
}

enum { SLOTS = 512, ROUNDS = 20000 };

/* Allocates, grows and frees in an order drawn from `seed`; tells whether no block lost its content. */
static int storm(uint64_t seed) {
    static __thread char *blocks[SLOTS];
    static __thread size_t sizes[SLOTS];
    for (int i = 0; i < ROUNDS; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t slot = (seed >> 33) % SLOTS, size = (seed >> 45) % 1000 == 0 ? 300000 : (seed >> 45) % 3000 + 1;
        if (blocks[slot] != NULL && !holds(blocks[slot], sizes[slot], (char)slot))
            return 0;
        char *block = (seed >> 60) % 4 == 0 ? (free(blocks[slot]), NULL) : realloc(blocks[slot], size);
        blocks[slot] = block;
        sizes[slot] = block != NULL ? size : 0;
        if (block != NULL)
            memset(block, (char)slot, size);
    }
    for (int i = 0; i < SLOTS; i++)
        free(blocks[i]);
    return 1;
}

static void *storm_in_thread(void *seed) {
    return (void *)(long)storm((uint64_t)seed);
}

static void allocator(void) {
    pthread_t threads[4];
    volatile size_t huge = PTRDIFF_MAX;
    long right = 0;
    CHECK(storm(1));
    for (long i = 0; i < 4; i++)
        require(pthread_create(&threads[i], NULL, storm_in_thread, (void *)(i + 2)) == 0, "pthread_create");
    for (int i = 0; i < 4; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        right += (long)result;
    }
    CHECK(right);
    CHECK_ADDRESS(malloc(huge));
    CHECK_ADDRESS(calloc(huge, 2));
    CHECK_ADDRESS(malloc(1UL << 47));
    char *large = calloc(1, 16 << 20);
    CHECK_THAT(large != NULL && holds(large, 16 << 20, 0));
    free(large);
    void *aligned = NULL;
    CHECK_CODE(posix_memalign(&aligned, 1 << 16, 100000));
    CHECK_THAT((uintptr_t)aligned % (1 << 16) == 0);
    CHECK_CODE(posix_memalign(&aligned, 3, 100));
    CHECK_OK(malloc_trim(0));
}

int main(void) {
    RUN(mappings);
    RUN(mapping_errors);
    RUN(remapping);
    RUN(advice);
    RUN(held_in_memory);
    RUN(program_break);
    RUN(allocator);
    return 0;
}
