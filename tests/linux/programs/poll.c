/* poll, select and their kin. */
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>

#include "events.h"

static int ends[2], other[2];

static void polling(void) {
    struct pollfd files[4] = {{.fd = ends[0], .events = POLLIN},
                              {.fd = ends[1], .events = POLLOUT},
                              {.fd = -1, .events = POLLIN, .revents = 99},
                              {.fd = 999, .events = POLLIN}};
    CHECK(poll(files, 3, 0));
    print_events("reader", (unsigned)files[0].revents);
    print_events("writer", (unsigned)files[1].revents);
    print_events("none", (unsigned)files[2].revents);
    CHECK(poll(files, 1, 0));
    CHECK(poll(files, 1, 10));
    CHECK(poll(files, 4, -1));
    print_events("not open", (unsigned)files[3].revents);
    CHECK(write(ends[1], "x", 1));
    CHECK(poll(files, 2, -1));
    print_events("reader", (unsigned)files[0].revents);
    files[0].events = 0;
    CHECK(poll(files, 1, 0));
    int file = open("/tmp", O_RDONLY);
    files[0] = (struct pollfd){.fd = file, .events = POLLIN | POLLOUT};
    CHECK(poll(files, 1, 0));
    print_events("directory", (unsigned)files[0].revents);
    CHECK(close(file));
    CHECK(poll(NULL, 0, 10));
    CHECK(poll(NULL, 0, 0));
}

static void polling_with_a_mask(void) {
    struct pollfd file = {.fd = ends[0], .events = POLLIN | POLLRDNORM};
    struct timespec none = {0}, wrong = {.tv_nsec = 1000000000}, negative = {.tv_sec = -1};
    sigset_t mask;
    sigemptyset(&mask);
    CHECK(ppoll(&file, 1, &none, NULL));
    CHECK(ppoll(&file, 1, NULL, &mask));
    CHECK_THAT((file.revents & POLLRDNORM) != 0);
    CHECK(ppoll(&file, 1, &wrong, NULL));
    CHECK(ppoll(&file, 1, &negative, NULL));
    CHECK(ppoll(NULL, 0, &none, &mask));
}

static void selecting(void) {
    fd_set reading, writing, failing;
    struct timeval none = {0}, some = {.tv_sec = 5}, wrong = {.tv_usec = -1}, short_time = {.tv_usec = 10000};
    FD_ZERO(&reading);
    FD_ZERO(&writing);
    FD_ZERO(&failing);
    FD_SET(ends[0], &reading);
    FD_SET(other[0], &reading);
    FD_SET(ends[1], &writing);
    FD_SET(ends[0], &failing);
    CHECK(select(20, &reading, &writing, &failing, &some));
    CHECK(FD_ISSET(ends[0], &reading) != 0);
    CHECK(FD_ISSET(other[0], &reading) != 0);
    CHECK(FD_ISSET(ends[1], &writing) != 0);
    CHECK(FD_ISSET(ends[0], &failing) != 0);
    CHECK_THAT(some.tv_sec <= 5);
    FD_ZERO(&reading);
    FD_SET(other[0], &reading);
    CHECK(select(20, &reading, NULL, NULL, &none));
    CHECK(FD_ISSET(other[0], &reading) != 0);
    FD_SET(other[0], &reading);
    CHECK(select(20, &reading, NULL, NULL, &short_time));
    CHECK((long)(short_time.tv_sec + short_time.tv_usec));
    CHECK(select(0, NULL, NULL, NULL, &none));
    CHECK(select(-1, NULL, NULL, NULL, &none));
    CHECK(select(0, NULL, NULL, NULL, &wrong));
    FD_ZERO(&reading);
    FD_SET(50, &reading);
    CHECK(select(51, &reading, NULL, NULL, &none));
    FD_ZERO(&reading);
    FD_SET(ends[0], &reading);
    CHECK(select(ends[0], &reading, NULL, NULL, &none));
}

static void selecting_with_a_mask(void) {
    fd_set reading;
    struct timespec short_time = {.tv_nsec = 10000000};
    sigset_t mask;
    sigemptyset(&mask);
    FD_ZERO(&reading);
    FD_SET(other[0], &reading);
    CHECK(pselect(20, &reading, NULL, NULL, &short_time, &mask));
    CHECK(short_time.tv_nsec);
    FD_SET(ends[0], &reading);
    CHECK(pselect(20, &reading, NULL, NULL, NULL, NULL));
    CHECK(FD_ISSET(ends[0], &reading) != 0);
}

static void *write_later(void *unused) {
    (void)!write(other[1], "x", 1);
    return unused;
}

static void waiting_for_a_thread(void) {
    pthread_t thread;
    fd_set reading;
    char byte;
    struct pollfd file = {.fd = other[0], .events = POLLIN};
    CHECK_CODE(pthread_create(&thread, NULL, write_later, NULL));
    CHECK(poll(&file, 1, -1));
    CHECK(read(other[0], &byte, 1));
    CHECK_CODE(pthread_join(thread, NULL));
    CHECK_CODE(pthread_create(&thread, NULL, write_later, NULL));
    FD_ZERO(&reading);
    FD_SET(other[0], &reading);
    CHECK(select(20, &reading, NULL, NULL, NULL));
    CHECK(read(other[0], &byte, 1));
    CHECK_CODE(pthread_join(thread, NULL));
}

static void many(void) {
    enum { FILES = 500 };
    static struct pollfd files[FILES];
    for (int i = 0; i < FILES; i++)
        files[i] = (struct pollfd){.fd = eventfd(i % 100 == 0, 0), .events = POLLIN};
    CHECK(poll(files, FILES, -1));
    print_events("first", (unsigned)files[0].revents);
    print_events("second", (unsigned)files[1].revents);
    for (int i = 0; i < FILES; i++)
        close(files[i].fd);
}

static void for_a_while(void) {
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(poll(NULL, 0, 20));
    clock_gettime(CLOCK_MONOTONIC, &after);
    CHECK_THAT((after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec >= 20000000);
}

int main(void) {
    require(pipe(ends) == 0 && pipe(other) == 0, "pipe");
    RUN(polling);
    RUN(polling_with_a_mask);
    RUN(selecting);
    RUN(selecting_with_a_mask);
    RUN(waiting_for_a_thread);
    RUN(many);
    RUN(for_a_while);
    return 0;
}
