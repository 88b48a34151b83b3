/* The futex system call itself, its errors above all. */
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "check.h"

enum { WAITERS = 8 };

static uint32_t word, other, finished;

static long futex(uint32_t *address, int operation, uint32_t value, const void *timeout, uint32_t *second,
                  uint32_t mask) {
    return syscall(SYS_futex, address, operation, value, timeout, second, mask);
}

static void values(void) {
    struct timespec soon = {.tv_nsec = 10000000}, negative = {.tv_sec = -1}, wrong = {.tv_nsec = 1000000000};
    struct timespec past = {.tv_sec = 1};
    CHECK(futex(&word, FUTEX_WAIT, 1, NULL, NULL, 0));
    CHECK(futex(&word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0));
    CHECK(futex(&word, FUTEX_WAIT_PRIVATE, 0, &soon, NULL, 0));
    CHECK(futex(&word, FUTEX_WAIT_PRIVATE, 1, &wrong, NULL, 0));
    CHECK(futex(&word, FUTEX_WAIT_PRIVATE, 0, &wrong, NULL, 0));
    CHECK(futex(&word, FUTEX_WAIT_PRIVATE, 0, &negative, NULL, 0));
    CHECK(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &past, NULL, FUTEX_BITSET_MATCH_ANY));
    CHECK(futex(&word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &past, NULL, FUTEX_BITSET_MATCH_ANY));
    CHECK(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &past, NULL, 0));
    CHECK(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 0));
    CHECK(futex(&word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
    CHECK(futex(&word, 99, 1, NULL, NULL, 0));
}

static void addresses(void) {
    uint32_t *unaligned = (uint32_t *)((char *)&word + 1), *bad = (uint32_t *)8;
    CHECK(futex(unaligned, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0));
    CHECK(futex(unaligned, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
    CHECK(futex(bad, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0));
    CHECK(futex(&word, FUTEX_WAIT_PRIVATE, 0, bad, NULL, 0));
}

static void requeues(void) {
    const void *one = (void *)1L;
    CHECK(futex(&word, FUTEX_REQUEUE_PRIVATE, 1, one, &other, 0));
    CHECK(futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 1, one, &other, 0));
    CHECK(futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 1, one, &other, 5));
    other = 3;
    CHECK(futex(&word, FUTEX_WAKE_OP_PRIVATE, 1, one, &other, FUTEX_OP(FUTEX_OP_ADD, 4, FUTEX_OP_CMP_EQ, 3)));
    CHECK(other);
}

static void *wait_on_word(void *mask) {
    while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == 0)
        futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, (uint32_t)(long)mask);
    __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* Wakes until so many are woken; each may not wait yet when it is asked for. */
static int wake(uint32_t *address, int count, uint32_t mask) {
    int woken = 0;
    while (woken < count) {
        long now = futex(address, FUTEX_WAKE_BITSET_PRIVATE, (uint32_t)(count - woken), NULL, NULL, mask);
        if (now < 0)
            return -1;
        woken += (int)now;
        sched_yield();
    }
    return woken;
}

static void waiters(void) {
    pthread_t threads[WAITERS];
    word = 0;
    for (long i = 0; i < WAITERS; i++)
        pthread_create(&threads[i], NULL, wait_on_word, (void *)(i % 2 ? 1L : 2L));
    /* Spurious wake-ups: each looks at the word, which has not changed, and waits again. */
    CHECK(wake(&word, 3, 1));
    CHECK(wake(&word, 3, 2));
    CHECK(wake(&word, 2, FUTEX_BITSET_MATCH_ANY));
    CHECK(finished);
    __atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
    CHECK_OK(futex(&word, FUTEX_WAKE_PRIVATE, WAITERS, NULL, NULL, 0));
    for (int i = 0; i < WAITERS; i++)
        pthread_join(threads[i], NULL);
    CHECK(finished);
}

static void *wait_once(void *unused) {
    (void)unused;
    return (void *)futex(&word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

/* Two that wait on one word go over to the other one, and are woken there. */
static void move(int operation) {
    pthread_t threads[2];
    long moved = 0;
    void *results[2];
    word = 0;
    other = 0;
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, wait_once, NULL);
    for (int tries = 0; moved < 2 && tries < 1000000; tries++) {
        long now = futex(&word, operation, 0, (void *)2L, &other, 0);
        require(now >= 0, "requeue");
        moved += now;
        sched_yield();
    }
    CHECK(moved);
    CHECK(futex(&word, FUTEX_WAKE_PRIVATE, 2, NULL, NULL, 0));
    CHECK(futex(&other, FUTEX_WAKE_PRIVATE, 2, NULL, NULL, 0));
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], &results[i]);
    CHECK((long)results[0]);
    CHECK((long)results[1]);
}

static void waiters_that_move(void) {
    move(FUTEX_CMP_REQUEUE_PRIVATE);
    move(FUTEX_REQUEUE_PRIVATE);
}

int main(void) {
    RUN(values);
    RUN(addresses);
    RUN(requeues);
    RUN(waiters);
    RUN(waiters_that_move);
    return 0;
}
