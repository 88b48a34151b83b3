/* Descriptors that count: events and the expiries of timers. */
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include "events.h"

static void counting(void) {
    uint64_t number = 3, too_large = UINT64_MAX, largest = UINT64_MAX - 1;
    int event = CHECK(eventfd(5, EFD_NONBLOCK | EFD_CLOEXEC));
    CHECK(fcntl(event, F_GETFD));
    print_events("five", wait_for(event, POLLIN | POLLOUT));
    CHECK(write(event, &number, sizeof number));
    CHECK(read(event, &number, sizeof number));
    CHECK((long)number);
    CHECK(read(event, &number, sizeof number));
    print_events("zero", wait_for(event, POLLIN | POLLOUT));
    CHECK(write(event, &too_large, sizeof too_large));
    CHECK(write(event, &largest, sizeof largest));
    print_events("full", wait_for(event, POLLIN | POLLOUT));
    CHECK(write(event, &number, sizeof number));
    CHECK(read(event, &number, 4));
    CHECK(write(event, &number, 4));
    CHECK(read(event, &number, sizeof number));
    CHECK_THAT(number == largest);
    number = 0;
    CHECK(write(event, &number, sizeof number));
    CHECK(read(event, &number, sizeof number));
    CHECK(close(event));
    CHECK(eventfd(0, 99));
}

static void one_by_one(void) {
    uint64_t number = 0;
    int event = CHECK(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
    CHECK(eventfd_read(event, &number));
    CHECK((long)number);
    CHECK(eventfd_read(event, &number));
    CHECK(eventfd_read(event, &number));
    CHECK(eventfd_write(event, 1));
    CHECK(eventfd_read(event, &number));
    CHECK(close(event));
}

static int between;

static void *count_up(void *unused) {
    for (int i = 0; i < 100; i++)
        eventfd_write(between, 1);
    return unused;
}

static void between_threads(void) {
    pthread_t thread;
    uint64_t number = 0, total = 0;
    between = CHECK(eventfd(0, 0));
    CHECK_CODE(pthread_create(&thread, NULL, count_up, NULL));
    while (total < 100 && eventfd_read(between, &number) == 0)
        total += number;
    CHECK((long)total);
    CHECK_CODE(pthread_join(thread, NULL));
    CHECK(close(between));
}

static void one_expiry(clockid_t clock) {
    uint64_t number = 0;
    struct itimerspec left, soon = {.it_value.tv_nsec = 10000000}, late = {.it_value.tv_sec = 1000}, never = {0};
    int timer = CHECK(timerfd_create(clock, TFD_CLOEXEC));
    CHECK(timerfd_gettime(timer, &left));
    CHECK_THAT(left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0);
    CHECK(timerfd_settime(timer, 0, &soon, NULL));
    print_events("expired", wait_for(timer, POLLIN));
    CHECK(read(timer, &number, sizeof number));
    CHECK((long)number);
    CHECK(timerfd_settime(timer, 0, &soon, NULL));
    CHECK(read(timer, &number, sizeof number));
    CHECK(timerfd_settime(timer, 0, &late, NULL));
    CHECK(timerfd_settime(timer, 0, &late, &left));
    CHECK_THAT(left.it_value.tv_sec >= 900 && left.it_value.tv_sec <= 1000);
    CHECK(fcntl(timer, F_SETFL, O_NONBLOCK));
    CHECK(read(timer, &number, sizeof number));
    CHECK(timerfd_settime(timer, 0, &never, NULL));
    CHECK(timerfd_gettime(timer, &left));
    CHECK_THAT(left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0);
    CHECK(close(timer));
}

static void monotonic(void) {
    one_expiry(CLOCK_MONOTONIC);
}

static void real_time(void) {
    one_expiry(CLOCK_REALTIME);
}

static void periods(void) {
    uint64_t number = 0, total = 0;
    struct itimerspec left, period = {{.tv_nsec = 5000000}, {.tv_nsec = 1000000}};
    int timer = CHECK(timerfd_create(CLOCK_MONOTONIC, 0));
    CHECK(timerfd_settime(timer, 0, &period, NULL));
    while (total < 5 && read(timer, &number, sizeof number) == sizeof number)
        total += number;
    CHECK_THAT(total >= 5);
    CHECK(timerfd_gettime(timer, &left));
    CHECK(left.it_interval.tv_nsec);
    CHECK(close(timer));
}

static void absolute_times(void) {
    uint64_t number = 0;
    struct timespec before, after;
    struct itimerspec then = {0}, past = {.it_value.tv_nsec = 1};
    int timer = CHECK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    CHECK(timerfd_settime(timer, TFD_TIMER_ABSTIME, &past, NULL));
    print_events("past", wait_for(timer, POLLIN));
    CHECK(read(timer, &number, sizeof number));
    clock_gettime(CLOCK_MONOTONIC, &before);
    then.it_value = before;
    then.it_value.tv_sec++;
    then.it_value.tv_nsec = 0;
    CHECK(timerfd_settime(timer, TFD_TIMER_ABSTIME, &then, NULL));
    print_events("then", wait_for(timer, POLLIN));
    clock_gettime(CLOCK_MONOTONIC, &after);
    CHECK_THAT(after.tv_sec >= then.it_value.tv_sec);
    CHECK(close(timer));
}

static void errors_of_timers(void) {
    uint64_t number;
    struct itimerspec wrong = {.it_value.tv_nsec = 1000000000}, right = {.it_value.tv_sec = 1};
    int timer = CHECK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)), event = eventfd(0, 0);
    CHECK(timerfd_create(99, 0));
    CHECK(timerfd_create(CLOCK_MONOTONIC, 99));
    CHECK(timerfd_settime(timer, 0, &wrong, NULL));
    CHECK(timerfd_settime(timer, 99, &right, NULL));
    CHECK(timerfd_settime(event, 0, &right, NULL));
    CHECK(timerfd_gettime(event, &right));
    CHECK(timerfd_settime(999, 0, &right, NULL));
    CHECK(timerfd_gettime(999, &right));
    CHECK(timerfd_settime(timer, 0, &right, NULL));
    CHECK(read(timer, &number, 4));
    CHECK(write(timer, &number, 8));
    CHECK(close(timer) + close(event));
}

int main(void) {
    RUN(counting);
    RUN(one_by_one);
    RUN(between_threads);
    RUN(monotonic);
    RUN(real_time);
    RUN(periods);
    RUN(absolute_times);
    RUN(errors_of_timers);
    return 0;
}
