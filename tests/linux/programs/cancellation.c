/* Threads that are cancelled where they wait. */
#include <pthread.h>
#include <semaphore.h>
#include <time.h>

#include "check.h"

static sem_t started, released;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int pipe_ends[2], cleaned;

static void clean(void *amount) {
    cleaned += (int)(long)amount;
}

static void *read_nothing(void *unused) {
    char byte;
    pthread_cleanup_push(clean, (void *)1L);
    sem_post(&started);
    (void)!read(pipe_ends[0], &byte, 1);
    pthread_cleanup_pop(0);
    return unused;
}

static void *sleep_long(void *unused) {
    struct timespec long_time = {.tv_sec = 1000};
    pthread_cleanup_push(clean, (void *)10L);
    sem_post(&started);
    nanosleep(&long_time, NULL);
    pthread_cleanup_pop(0);
    return unused;
}

static void unlock(void *lock) {
    cleaned += 100;
    pthread_mutex_unlock(lock);
}

static void *wait_for_nothing(void *unused) {
    pthread_mutex_lock(&mutex);
    pthread_cleanup_push(unlock, &mutex);
    sem_post(&started);
    for (;;)
        pthread_cond_wait(&condition, &mutex);
    pthread_cleanup_pop(0);
    return unused;
}

static void *refuse_at_first(void *unused) {
    int old;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
    sem_post(&started);
    while (sem_wait(&released) != 0) {
    }
    cleaned += 1000;
    pthread_setcancelstate(old, NULL);
    pthread_testcancel();
    cleaned += 1000000;
    return unused;
}

static void *leave(void *value) {
    pthread_cleanup_push(clean, (void *)10000L);
    pthread_exit(value);
    pthread_cleanup_pop(0);
    return NULL;
}

static int cancel(void *(*function)(void *)) {
    pthread_t thread;
    void *result = NULL;
    require(pthread_create(&thread, NULL, function, NULL) == 0, "pthread_create");
    while (sem_wait(&started) != 0) {
    }
    pthread_cancel(thread);
    sem_post(&released);
    pthread_join(thread, &result);
    return result == PTHREAD_CANCELED;
}

int main(void) {
    pthread_t thread;
    void *result = NULL;
    require(pipe(pipe_ends) == 0, "pipe");
    CHECK(sem_init(&started, 0, 0));
    CHECK(sem_init(&released, 0, 0));
    CHECK_THAT(cancel(read_nothing));
    CHECK(cleaned);
    CHECK_THAT(cancel(sleep_long));
    CHECK(cleaned);
    CHECK_THAT(cancel(wait_for_nothing));
    CHECK(cleaned);
    CHECK_CODE(pthread_mutex_trylock(&mutex));
    while (sem_trywait(&released) == 0) {
    }
    CHECK_THAT(cancel(refuse_at_first));
    CHECK(cleaned);
    CHECK_CODE(pthread_create(&thread, NULL, leave, (void *)42L));
    CHECK_CODE(pthread_join(thread, &result));
    CHECK((long)result);
    CHECK(cleaned);
    return 0;
}
