/* POSIX threads: many of them, what they wait on, and what each has of its own. */
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#include "check.h"

enum { FEW = 16, MANY = 256, TURNS = 1000, SMALL_STACK = 64 * 1024 };

static struct timespec after_ms(clockid_t clock, long milliseconds) {
    struct timespec time;
    clock_gettime(clock, &time);
    time.tv_nsec += milliseconds * 1000000;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long sum;

static void *add(void *number) {
    pthread_mutex_lock(&mutex);
    sum += (long)number;
    pthread_mutex_unlock(&mutex);
    return number;
}

static void create_and_join(void) {
    pthread_t threads[FEW];
    int created = 0, joined = 0, right = 0;
    for (long i = 0; i < FEW; i++)
        created += pthread_create(&threads[i], NULL, add, (void *)i) == 0;
    for (long i = 0; i < FEW; i++) {
        void *result = NULL;
        joined += pthread_join(threads[i], &result) == 0;
        right += result == (void *)i;
    }
    CHECK(created);
    CHECK(joined);
    CHECK(right);
    CHECK(sum);
    CHECK_CODE(pthread_join(pthread_self(), NULL));
}

static pthread_barrier_t barrier;
static int serial;

static void *meet(void *unused) {
    (void)unused;
    int result = pthread_barrier_wait(&barrier);
    if (result == PTHREAD_BARRIER_SERIAL_THREAD)
        __atomic_add_fetch(&serial, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void all_at_once(void) {
    pthread_t threads[MANY];
    pthread_attr_t attributes;
    int created = 0, joined = 0;
    CHECK_CODE(pthread_attr_init(&attributes));
    CHECK_CODE(pthread_attr_setstacksize(&attributes, SMALL_STACK));
    CHECK_CODE(pthread_attr_setstacksize(&attributes, 1));
    CHECK_CODE(pthread_barrier_init(&barrier, NULL, MANY + 1));
    for (int i = 0; i < MANY; i++)
        created += pthread_create(&threads[i], &attributes, meet, NULL) == 0;
    CHECK(created);
    meet(NULL);
    for (int i = 0; i < MANY; i++)
        joined += pthread_join(threads[i], NULL) == 0;
    CHECK(joined);
    CHECK(serial);
    CHECK_CODE(pthread_barrier_destroy(&barrier));
    CHECK_CODE(pthread_attr_destroy(&attributes));
}

static void *try_lock(void *lock) {
    return (void *)(long)pthread_mutex_trylock(lock);
}

static void *unlock(void *lock) {
    return (void *)(long)pthread_mutex_unlock(lock);
}

/* What a function returns in another thread. */
static int elsewhere(void *(*function)(void *), void *argument) {
    pthread_t thread;
    void *result = NULL;
    require(pthread_create(&thread, NULL, function, argument) == 0, "pthread_create");
    pthread_join(thread, &result);
    return (int)(long)result;
}

static void mutexes(void) {
    pthread_mutex_t plain, checking, recursive;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    CHECK_CODE(pthread_mutex_init(&plain, &attributes));
    CHECK_CODE(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK));
    CHECK_CODE(pthread_mutex_init(&checking, &attributes));
    CHECK_CODE(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE));
    CHECK_CODE(pthread_mutex_init(&recursive, &attributes));

    CHECK_CODE(pthread_mutex_lock(&plain));
    CHECK_CODE(pthread_mutex_trylock(&plain));
    CHECK_CODE(elsewhere(try_lock, &plain));
    struct timespec soon = after_ms(CLOCK_REALTIME, 10);
    CHECK_CODE(pthread_mutex_timedlock(&plain, &soon));
    soon = after_ms(CLOCK_MONOTONIC, 10);
    CHECK_CODE(pthread_mutex_clocklock(&plain, CLOCK_MONOTONIC, &soon));
    CHECK_CODE(pthread_mutex_unlock(&plain));

    CHECK_CODE(pthread_mutex_lock(&checking));
    CHECK_CODE(pthread_mutex_lock(&checking));
    CHECK_CODE(elsewhere(unlock, &checking));
    CHECK_CODE(pthread_mutex_unlock(&checking));
    CHECK_CODE(pthread_mutex_unlock(&checking));

    CHECK_CODE(pthread_mutex_lock(&recursive));
    CHECK_CODE(pthread_mutex_lock(&recursive));
    CHECK_CODE(pthread_mutex_unlock(&recursive));
    CHECK_CODE(elsewhere(try_lock, &recursive));
    CHECK_CODE(pthread_mutex_unlock(&recursive));
    CHECK_CODE(elsewhere(try_lock, &recursive));
}

static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int turn;

static void *take_odd_turns(void *unused) {
    (void)unused;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < TURNS; i++) {
        while (turn % 2 == 0)
            pthread_cond_wait(&condition, &mutex);
        turn++;
        pthread_cond_signal(&condition);
    }
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static int waiting, is_open;

static void *wait_until_open(void *unused) {
    (void)unused;
    pthread_mutex_lock(&mutex);
    waiting++;
    pthread_cond_broadcast(&condition);
    while (!is_open)
        pthread_cond_wait(&condition, &mutex);
    waiting--;
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static void conditions(void) {
    pthread_t threads[FEW];
    CHECK_CODE(pthread_create(&threads[0], NULL, take_odd_turns, NULL));
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < TURNS; i++) {
        while (turn % 2 == 1)
            pthread_cond_wait(&condition, &mutex);
        turn++;
        pthread_cond_signal(&condition);
    }
    pthread_mutex_unlock(&mutex);
    CHECK_CODE(pthread_join(threads[0], NULL));
    CHECK(turn);

    for (int i = 0; i < FEW; i++)
        pthread_create(&threads[i], NULL, wait_until_open, NULL);
    pthread_mutex_lock(&mutex);
    while (waiting < FEW)
        pthread_cond_wait(&condition, &mutex);
    CHECK(waiting);
    is_open = 1;
    CHECK_CODE(pthread_cond_broadcast(&condition));
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < FEW; i++)
        pthread_join(threads[i], NULL);
    CHECK(waiting);

    pthread_mutex_lock(&mutex);
    struct timespec past = {.tv_sec = 1}, wrong = {.tv_nsec = 1000000000};
    struct timespec soon = after_ms(CLOCK_REALTIME, 10);
    CHECK_CODE(pthread_cond_timedwait(&condition, &mutex, &soon));
    struct timespec now = after_ms(CLOCK_REALTIME, 0);
    CHECK_THAT(now.tv_sec > soon.tv_sec || (now.tv_sec == soon.tv_sec && now.tv_nsec >= soon.tv_nsec));
    CHECK_CODE(pthread_cond_timedwait(&condition, &mutex, &past));
    CHECK_CODE(pthread_cond_timedwait(&condition, &mutex, &wrong));
    soon = after_ms(CLOCK_MONOTONIC, 10);
    CHECK_CODE(pthread_cond_clockwait(&condition, &mutex, CLOCK_MONOTONIC, &soon));
    pthread_mutex_unlock(&mutex);
}

static sem_t items, done;
static long consumed;

static void *produce(void *unused) {
    (void)unused;
    for (int i = 0; i < TURNS; i++)
        sem_post(&items);
    return NULL;
}

static void *consume(void *unused) {
    (void)unused;
    for (int i = 0; i < TURNS; i++) {
        sem_wait(&items);
        __atomic_add_fetch(&consumed, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void semaphores(void) {
    pthread_t threads[8];
    int value = -1;
    CHECK(sem_init(&items, 0, 0));
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, i % 2 ? produce : consume, NULL);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    CHECK(consumed);
    CHECK(sem_trywait(&items));
    struct timespec soon = after_ms(CLOCK_REALTIME, 10);
    CHECK(sem_timedwait(&items, &soon));
    CHECK(sem_post(&items));
    CHECK(sem_getvalue(&items, &value));
    CHECK(value);
    CHECK(sem_timedwait(&items, &soon));
    CHECK(sem_destroy(&items));
}

static void *try_to_write(void *lock) {
    return (void *)(long)pthread_rwlock_trywrlock(lock);
}

static void *try_to_read(void *lock) {
    int result = pthread_rwlock_tryrdlock(lock);
    if (result == 0)
        pthread_rwlock_unlock(lock);
    return (void *)(long)result;
}

static void read_write_locks(void) {
    pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
    CHECK_CODE(pthread_rwlock_rdlock(&lock));
    CHECK_CODE(elsewhere(try_to_read, &lock));
    CHECK_CODE(elsewhere(try_to_write, &lock));
    CHECK_CODE(pthread_rwlock_unlock(&lock));
    CHECK_CODE(pthread_rwlock_wrlock(&lock));
    CHECK_CODE(elsewhere(try_to_read, &lock));
    CHECK_CODE(pthread_rwlock_rdlock(&lock));
    CHECK_CODE(pthread_rwlock_unlock(&lock));
}

static __thread int own = 7;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int destroyed, prepared;

static void destroy(void *value) {
    destroyed += (int)(long)value;
}

static void prepare(void) {
    prepared++;
}

static void *keep_to_itself(void *unused) {
    (void)unused;
    pthread_once(&once, prepare);
    pthread_setspecific(key, (void *)5L);
    int first = own;
    own = 70;
    errno = ERANGE;
    return (void *)(long)first;
}

static void own_storage(void) {
    own = 8;
    CHECK_CODE(pthread_key_create(&key, destroy));
    CHECK_CODE(pthread_setspecific(key, (void *)1L));
    errno = ENOENT;
    int seen = elsewhere(keep_to_itself, NULL) + elsewhere(keep_to_itself, NULL);
    CHECK_THAT(errno == ENOENT);
    CHECK(seen);
    CHECK(own);
    CHECK(prepared);
    CHECK(destroyed);
    CHECK((long)pthread_getspecific(key));
    CHECK_CODE(pthread_key_delete(key));
}

static void *name_itself(void *name) {
    char found[16] = "";
    int result = pthread_setname_np(pthread_self(), "worker-of-15-ch");
    pthread_getname_np(pthread_self(), found, sizeof found);
    memcpy(name, found, sizeof found);
    return (void *)(long)result;
}

static void *tell_number(void *unused) {
    (void)unused;
    return (void *)(long)gettid();
}

static void names_and_numbers(void) {
    char name[16] = "";
    CHECK_CODE(elsewhere(name_itself, name));
    CHECK_TEXT(name);
    CHECK_CODE(pthread_setname_np(pthread_self(), "longer than 15 letters"));
    CHECK_CODE(pthread_setname_np(pthread_self(), "first"));
    CHECK(prctl(PR_GET_NAME, name));
    CHECK_TEXT(name);
    CHECK_THAT(gettid() == getpid());
    CHECK_THAT(elsewhere(tell_number, NULL) != getpid());
}

static void *wait_until_done(void *unused) {
    (void)unused;
    while (sem_wait(&done) != 0) {
    }
    return NULL;
}

static void states(void) {
    pthread_t thread;
    void *result = NULL;
    CHECK(sem_init(&done, 0, 0));
    CHECK_CODE(pthread_create(&thread, NULL, wait_until_done, NULL));
    CHECK_CODE(pthread_tryjoin_np(thread, &result));
    struct timespec soon = after_ms(CLOCK_REALTIME, 10);
    CHECK_CODE(pthread_timedjoin_np(thread, &result, &soon));
    CHECK_CODE(pthread_kill(thread, 0));
    CHECK_CODE(pthread_detach(thread));
    CHECK_CODE(pthread_join(thread, NULL));
    CHECK(sem_post(&done));
}

static void *find_stack(void *unused) {
    (void)unused;
    pthread_attr_t attributes;
    void *bottom = NULL;
    size_t size = 0;
    int result = pthread_getattr_np(pthread_self(), &attributes);
    if (result != 0)
        return (void *)(long)result;
    pthread_attr_getstack(&attributes, &bottom, &size);
    pthread_attr_destroy(&attributes);
    char *here = (char *)&attributes;
    return (void *)(long)(here > (char *)bottom && here < (char *)bottom + size ? 0 : ERANGE);
}

static void stacks(void) {
    CHECK_CODE((int)(long)find_stack(NULL));
    CHECK_CODE(elsewhere(find_stack, NULL));
}

int main(void) {
    RUN(create_and_join);
    RUN(all_at_once);
    RUN(mutexes);
    RUN(conditions);
    RUN(semaphores);
    RUN(read_write_locks);
    RUN(own_storage);
    RUN(names_and_numbers);
    RUN(states);
    RUN(stacks);
    return 0;
}
