/* System calls that a signal interrupts. A timer comes again and again, so that none is missed. */
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#include "events.h"

static volatile sig_atomic_t ticks;
static int ends[2], pair[2], ticks_until_data;

static void tick(int number) {
    (void)number;
    int saved = errno;
    ticks++;
    if (ticks_until_data != 0 && ticks % ticks_until_data == 0)
        (void)!write(ends[1], "t", 1);
    errno = saved;
}

static void start(int flags) {
    struct sigaction action = {.sa_handler = tick, .sa_flags = flags};
    struct itimerval every = {{.tv_usec = 5000}, {.tv_usec = 5000}};
    ticks = 0;
    require(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0, "setitimer");
}

static void stop(void) {
    struct itimerval never = {0};
    setitimer(ITIMER_REAL, &never, NULL);
}

static void without_restart(void) {
    char byte;
    struct timespec long_time = {.tv_sec = 1000}, left = {0};
    start(0);
    CHECK(read(ends[0], &byte, 1));
    CHECK(recv(pair[0], &byte, 1, 0));
    CHECK(nanosleep(&long_time, &left));
    CHECK_THAT(left.tv_sec >= 900);
    CHECK_CODE(clock_nanosleep(CLOCK_MONOTONIC, 0, &long_time, &left));
    CHECK(pause());
    CHECK_THAT(sleep(1000) > 0);
    sem_t semaphore;
    sem_init(&semaphore, 0, 0);
    CHECK(sem_wait(&semaphore));
    stop();
    CHECK_THAT(ticks > 0);
}

static void with_restart(void) {
    char byte;
    ticks_until_data = 3;
    start(SA_RESTART);
    CHECK(read(ends[0], &byte, 1));
    CHECK_THAT(ticks >= 3);
    stop();
    ticks_until_data = 0;
    /* The file may have got more than one. */
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    while (read(ends[0], &byte, 1) == 1) {
    }
    fcntl(ends[0], F_SETFL, 0);
}

/* What SA_RESTART does not restart (signal(7)). */
static void never_restarted(void) {
    char byte;
    struct timespec long_time = {.tv_sec = 1000};
    struct timeval limit = {.tv_sec = 1000};
    struct pollfd file = {.fd = ends[0], .events = POLLIN};
    struct epoll_event event = {.events = EPOLLIN};
    sigset_t none;
    int set = epoll_create1(0);
    fd_set reading;
    sigemptyset(&none);
    require(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event) == 0, "epoll_ctl");
    start(SA_RESTART);
    CHECK(poll(&file, 1, -1));
    CHECK(ppoll(&file, 1, NULL, NULL));
    CHECK(epoll_wait(set, &event, 1, -1));
    CHECK(epoll_pwait(set, &event, 1, -1, &none));
    FD_ZERO(&reading);
    FD_SET(ends[0], &reading);
    CHECK(select(ends[0] + 1, &reading, NULL, NULL, NULL));
    FD_SET(ends[0], &reading);
    CHECK(pselect(ends[0] + 1, &reading, NULL, NULL, NULL, &none));
    CHECK(nanosleep(&long_time, NULL));
    CHECK(pause());
    CHECK(sigsuspend(&none));
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CHECK(recv(pair[0], &byte, 1, 0));
    stop();
    CHECK(close(set));
}

static void timers(void) {
    struct itimerval timer = {.it_value.tv_sec = 100}, old, wrong = {.it_value.tv_usec = 1000000};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL));
    CHECK(getitimer(ITIMER_REAL, &old));
    CHECK_THAT(old.it_value.tv_sec >= 90 && old.it_value.tv_sec <= 100);
    CHECK((long)old.it_interval.tv_sec);
    CHECK_THAT(alarm(50) >= 90);
    CHECK_THAT(alarm(0) >= 40);
    CHECK((long)alarm(0));
    CHECK(setitimer(ITIMER_REAL, &wrong, NULL));
    CHECK(setitimer(99, &timer, NULL));
    CHECK(getitimer(99, &old));
    start(0);
    stop();
    CHECK(getitimer(ITIMER_REAL, &old));
    CHECK((long)(old.it_value.tv_sec + old.it_value.tv_usec));
    /* One shot, waited for by a mask that is open while it is waited for only. */
    sigset_t alarms, none;
    sigemptyset(&none);
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    CHECK(sigprocmask(SIG_BLOCK, &alarms, NULL));
    ticks = 0;
    timer = (struct itimerval){.it_value.tv_usec = 10000};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL));
    CHECK(ppoll(NULL, 0, NULL, &none));
    CHECK(ticks);
    CHECK((long)alarm(1));
    CHECK(sigsuspend(&none));
    CHECK(ticks);
    CHECK(sigprocmask(SIG_SETMASK, &none, NULL));
}

static void broken_pipes(void) {
    int broken[2];
    require(pipe(broken) == 0, "pipe");
    close(broken[0]);
    ticks = 0;
    signal(SIGPIPE, tick);
    CHECK(write(broken[1], "x", 1));
    CHECK(ticks);
    signal(SIGPIPE, SIG_IGN);
    CHECK(write(broken[1], "x", 1));
    CHECK(ticks);
    CHECK(close(broken[1]));
    require(socketpair(AF_UNIX, SOCK_STREAM, 0, broken) == 0, "socketpair");
    close(broken[0]);
    signal(SIGPIPE, tick);
    CHECK(send(broken[1], "x", 1, MSG_NOSIGNAL));
    CHECK(ticks);
    CHECK(send(broken[1], "x", 1, 0));
    CHECK(ticks);
    CHECK(close(broken[1]));
}

int main(void) {
    require(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "pipe");
    RUN(without_restart);
    RUN(with_restart);
    RUN(never_restarted);
    RUN(timers);
    RUN(broken_pipes);
    return 0;
}
