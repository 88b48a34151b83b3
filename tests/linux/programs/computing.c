/* One thread computes without a system call. With the argument `woken`, another one was woken before; with `sleeping`,
 * another one's sleep ends meanwhile; with `told`, another one has been written what it reads; with `idle`, nobody wants the
 * processor. The second argument says how long: so many multiplications. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#include "check.h"

static pthread_barrier_t all_there;
static atomic_int is_done;
static int ends[2];
static int is_told, is_woken;

/* The test looks for its name. */
uint64_t compute_at_length(uint64_t rounds);

__attribute__((noinline)) uint64_t compute_at_length(uint64_t rounds) {
    uint64_t number = 1;
    for (uint64_t round = 0; round < rounds; round++)
        number = number * 6364136223846793005u + 1442695040888963407u;
    return number;
}

static void *compute(void *rounds) {
    prctl(PR_SET_NAME, "worker");
    pthread_barrier_wait(&all_there);
    /* Whoever has waited at the barrier has been woken by now, and has not run. */
    if (!is_woken)
        usleep(1000);
    if (is_told)
        CHECK(write(ends[1], "x", 1));
    uint64_t number = compute_at_length(*(uint64_t *)rounds);
    CHECK_THAT(number % 2 == 1);
    atomic_store(&is_done, 1);
    return NULL;
}

static void *sleep_often(void *nothing) {
    pthread_barrier_wait(&all_there);
    while (!atomic_load(&is_done))
        usleep(10000);
    return nothing;
}

static void *read_one(void *nothing) {
    char byte;
    pthread_barrier_wait(&all_there);
    if (read(ends[0], &byte, 1) != 1)
        puts("nothing was read");
    return nothing;
}

int main(int count, char **arguments) {
    const char *way = count > 1 ? arguments[1] : "idle";
    uint64_t rounds = count > 2 ? strtoull(arguments[2], NULL, 10) : 1000;
    pthread_t worker, other;
    is_told = strcmp(way, "told") == 0;
    is_woken = strcmp(way, "woken") == 0;
    require(pipe(ends) == 0, "pipe");
    require(pthread_barrier_init(&all_there, NULL, 2) == 0, "barrier");
    void *(*what_other_does)(void *) = strcmp(way, "sleeping") == 0 ? sleep_often : read_one;
    require(pthread_create(&other, NULL, what_other_does, NULL) == 0, "thread");
    require(pthread_create(&worker, NULL, compute, &rounds) == 0, "thread");
    CHECK_CODE(pthread_join(worker, NULL));
    if (!is_told)
        CHECK(write(ends[1], "x", 1));
    CHECK_CODE(pthread_join(other, NULL));
    return 0;
}
