/* epoll: by level and by edge, once only, and what happens to the descriptors it looks at. */
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "network.h"

static int set;

static int control(int operation, int file, unsigned events, unsigned long data) {
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(set, operation, file, &event);
}

/* Waits up to `timeout` milliseconds; prints the events by their data, smallest first. */
static void wait_up_to(const char *text, int timeout) {
    struct epoll_event events[8];
    errno = 0;
    int count = epoll_wait(set, events, 8, timeout);
    printf("%s: ", text);
    check_number("events", count);
    for (unsigned long data = 0; data < 100; data++)
        for (int i = 0; i < count; i++)
            if (events[i].data.u64 == data) {
                printf("  %lu", data);
                print_events("", events[i].events);
            }
}

static void by_level(void) {
    int ends[2];
    char byte;
    require(pipe(ends) == 0, "pipe");
    CHECK(control(EPOLL_CTL_ADD, ends[0], EPOLLIN, 1));
    CHECK(control(EPOLL_CTL_ADD, ends[1], EPOLLOUT, 2));
    wait_up_to("room to write", 0);
    CHECK(write(ends[1], "ab", 2));
    wait_up_to("both", 0);
    wait_up_to("both again", -1);
    CHECK(read(ends[0], &byte, 1));
    wait_up_to("both still", 0);
    CHECK(control(EPOLL_CTL_MOD, ends[1], 0, 2));
    wait_up_to("one of them", 0);
    CHECK(read(ends[0], &byte, 1));
    wait_up_to("none", 0);
    wait_up_to("none in 10 ms", 10);
    CHECK(control(EPOLL_CTL_DEL, ends[0], 0, 0));
    CHECK(write(ends[1], "c", 1));
    wait_up_to("none looked at", 0);
    CHECK(close(ends[0]));
    wait_up_to("reader gone", 0);
    CHECK(close(ends[1]));
    wait_up_to("nothing left", 0);
}

static void by_edge(void) {
    int pair[2];
    char text[10];
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0, "socketpair");
    CHECK(control(EPOLL_CTL_ADD, pair[0], EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1));
    wait_up_to("at first", 0);
    wait_up_to("nothing new", 0);
    CHECK(write(pair[1], "abc", 3));
    wait_up_to("data", 0);
    wait_up_to("nothing new", 0);
    CHECK(write(pair[1], "def", 3));
    wait_up_to("more data before it was read", 0);
    CHECK(read(pair[0], text, 2));
    wait_up_to("reading is no event", 0);
    CHECK(control(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLET, 3));
    wait_up_to("looked at anew", 0);
    CHECK(read(pair[0], text, 10));
    CHECK(read(pair[0], text, 10));
    CHECK(write(pair[1], "g", 1));
    wait_up_to("data again", 0);
    CHECK(control(EPOLL_CTL_MOD, pair[0], EPOLLIN | EPOLLRDHUP | EPOLLET, 4));
    wait_up_to("still unread", 0);
    CHECK(shutdown(pair[1], SHUT_WR));
    wait_up_to("half closed", 0);
    wait_up_to("nothing new", 0);
    CHECK(close(pair[1]));
    wait_up_to("closed", 0);
    wait_up_to("nothing new", 0);
    CHECK(close(pair[0]));
}

static void room_by_edge(void) {
    static char block[4096];
    int ends[2];
    require(pipe2(ends, O_NONBLOCK) == 0, "pipe2");
    CHECK(control(EPOLL_CTL_ADD, ends[1], EPOLLOUT | EPOLLET, 1));
    wait_up_to("room", 0);
    while (write(ends[1], block, sizeof block) > 0) {
    }
    CHECK_THAT(errno == EAGAIN);
    wait_up_to("full", 0);
    while (read(ends[0], block, sizeof block) > 0) {
    }
    wait_up_to("room again", 0);
    wait_up_to("nothing new", 0);
    CHECK(close(ends[0]) + close(ends[1]));
}

static void once(void) {
    int ends[2];
    require(pipe(ends) == 0, "pipe");
    CHECK(control(EPOLL_CTL_ADD, ends[0], EPOLLIN | EPOLLONESHOT, 1));
    CHECK(write(ends[1], "a", 1));
    wait_up_to("once", 0);
    CHECK(write(ends[1], "b", 1));
    wait_up_to("not again", 0);
    CHECK(control(EPOLL_CTL_ADD, ends[0], EPOLLIN, 1));
    CHECK(control(EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLONESHOT, 2));
    wait_up_to("armed again", 0);
    CHECK(close(ends[1]));
    wait_up_to("not even the end", 0);
    CHECK(close(ends[0]));
}

static void closed_descriptors(void) {
    int ends[2];
    require(pipe(ends) == 0, "pipe");
    CHECK(write(ends[1], "a", 1));
    CHECK(control(EPOLL_CTL_ADD, ends[0], EPOLLIN, 1));
    int copy = dup(ends[0]);
    CHECK(control(EPOLL_CTL_ADD, copy, EPOLLIN, 2));
    wait_up_to("two descriptors", 0);
    CHECK(close(copy));
    CHECK(control(EPOLL_CTL_DEL, ends[0], 0, 0));
    CHECK(close(ends[0]));
    wait_up_to("closed", 0);
    CHECK(close(ends[1]));
}

static void nested(void) {
    int inner = epoll_create1(EPOLL_CLOEXEC), event = eventfd(0, 0), outer = set, outermost = epoll_create1(0);
    uint64_t number;
    set = inner;
    CHECK(control(EPOLL_CTL_ADD, event, EPOLLIN, 1));
    set = outer;
    CHECK(control(EPOLL_CTL_ADD, inner, EPOLLIN, 2));
    wait_up_to("nothing inside", 0);
    CHECK(eventfd_write(event, 1));
    wait_up_to("inside", 0);
    print_events("the inner one", wait_for(inner, POLLIN));
    CHECK(eventfd_read(event, &number));
    wait_up_to("nothing inside", 0);
    set = inner;
    CHECK(control(EPOLL_CTL_ADD, outer, EPOLLIN, 3));
    set = outermost;
    CHECK(control(EPOLL_CTL_ADD, outer, EPOLLIN, 4));
    set = outer;
    CHECK(close(inner) + close(event) + close(outermost));
}

static void errors(void) {
    int ends[2], file = open("/tmp", O_RDONLY);
    struct epoll_event event = {.events = EPOLLIN};
    require(pipe(ends) == 0, "pipe");
    CHECK(control(EPOLL_CTL_ADD, ends[0], EPOLLIN, 1));
    CHECK(control(EPOLL_CTL_ADD, ends[0], EPOLLIN, 1));
    CHECK(control(EPOLL_CTL_MOD, ends[1], EPOLLIN, 1));
    CHECK(control(EPOLL_CTL_DEL, ends[1], 0, 0));
    CHECK(control(EPOLL_CTL_ADD, set, EPOLLIN, 1));
    CHECK(control(EPOLL_CTL_ADD, file, EPOLLIN, 1));
    CHECK(control(EPOLL_CTL_ADD, 999, EPOLLIN, 1));
    CHECK(control(99, ends[0], EPOLLIN, 1));
    CHECK(control(EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLEXCLUSIVE, 1));
    CHECK(epoll_ctl(999, EPOLL_CTL_ADD, ends[1], &event));
    CHECK(epoll_ctl(ends[0], EPOLL_CTL_ADD, ends[1], &event));
    CHECK(epoll_wait(999, &event, 1, 0));
    CHECK(epoll_wait(ends[0], &event, 1, 0));
    CHECK(epoll_wait(set, &event, 0, 0));
    CHECK(syscall(SYS_epoll_wait, set, &event, -1, 0));
    CHECK(epoll_create1(99));
    CHECK(epoll_create(0));
    CHECK(close(epoll_create(1)));
    CHECK(read(set, &event, sizeof event));
    CHECK(close(ends[0]) + close(ends[1]) + close(file));
}

static int late[2];

static void *write_one(void *unused) {
    (void)!write(late[1], "x", 1);
    return unused;
}

static void other_ways_to_wait(void) {
    struct epoll_event event = {0};
    struct timespec short_time = {.tv_nsec = 10000000}, wrong = {.tv_nsec = 1000000000};
    sigset_t none;
    pthread_t thread;
    sigemptyset(&none);
    require(pipe(late) == 0, "pipe");
    CHECK(control(EPOLL_CTL_ADD, late[0], EPOLLIN, 7));
    CHECK(epoll_pwait(set, &event, 1, 10, &none));
    CHECK(epoll_pwait2(set, &event, 1, &short_time, NULL));
    CHECK(epoll_pwait2(set, &event, 1, &wrong, NULL));
    CHECK_CODE(pthread_create(&thread, NULL, write_one, NULL));
    CHECK(epoll_pwait(set, &event, 1, -1, NULL));
    CHECK((long)event.data.u64);
    CHECK(epoll_pwait2(set, &event, 1, NULL, &none));
    CHECK_CODE(pthread_join(thread, NULL));
    CHECK(close(late[0]) + close(late[1]));
}

static void with_tcp(void) {
    int listener = listening("127.0.0.1"), on = 1;
    char text[10];
    struct epoll_event events[2];
    CHECK(ioctl(listener, FIONBIO, &on));
    CHECK(control(EPOLL_CTL_ADD, listener, EPOLLIN, 1));
    wait_up_to("nobody", 0);
    int client = connected(listener);
    wait_up_to("a client", -1);
    int server = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    wait_up_to("accepted", 0);
    CHECK(control(EPOLL_CTL_ADD, server, EPOLLIN | EPOLLRDHUP | EPOLLET, 2));
    wait_up_to("no request", 0);
    CHECK(send(client, "request", 7, 0));
    wait_up_to("request", -1);
    wait_up_to("nothing new", 0);
    CHECK(recv(server, text, 10, 0));
    CHECK(recv(server, text, 10, 0));
    CHECK(send(client, "second", 6, 0));
    wait_up_to("second request", -1);
    CHECK(recv(server, text, 10, 0));
    CHECK(shutdown(client, SHUT_WR));
    wait_up_to("half closed", -1);
    CHECK(control(EPOLL_CTL_MOD, server, EPOLLIN | EPOLLRDHUP | EPOLLOUT, 2));
    wait_up_to("by level", -1);
    CHECK(shutdown(server, SHUT_WR));
    wait_up_to("closed", -1);
    CHECK(close(client));
    wait_up_to("closed on both sides", -1);
    CHECK(close(server) + close(listener));
    CHECK(epoll_wait(set, events, 2, 0));
}

/* Prints the events by their data, in the order in which they come, at most `count_max` at a time. */
static void wait_for_order(const char *text, int count_max) {
    struct epoll_event events[8];
    int count = epoll_wait(set, events, count_max, 0);
    printf("%s:", text);
    for (int i = 0; i < count; i++)
        printf(" %lu", (unsigned long)events[i].data.u64);
    printf("\n");
}

enum { QUEUED = 4 };

static void tell(int pairs[QUEUED][2], const char *order) {
    for (; *order != 0; order++)
        require(write(pairs[*order - '0'][1], "abc", 3) == 3, "write");
}

static void read_all(int pairs[QUEUED][2]) {
    char text[64];
    for (int i = 0; i < QUEUED; i++)
        while (read(pairs[i][0], text, sizeof text) > 0) {
        }
    wait_for_order("none", 8);
}

/* What became ready first is reported first, and what is reported goes to the end. */
static void in_order(int are_pipes) {
    int pairs[QUEUED][2];
    char text[2];
    for (int i = 0; i < QUEUED; i++) {
        require(are_pipes ? pipe2(pairs[i], O_NONBLOCK) == 0
                          : socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pairs[i]) == 0, "a pair");
        CHECK(control(EPOLL_CTL_ADD, pairs[i][0], i == 3 ? EPOLLIN | EPOLLET : EPOLLIN, (unsigned)i));
    }
    wait_for_order("none", 8);
    tell(pairs, "2031");
    wait_for_order("as they came", 8);
    wait_for_order("the one by edge no more", 8);
    read_all(pairs);
    tell(pairs, "3120");
    wait_for_order("another order", 8);
    tell(pairs, "3");
    wait_for_order("an edge comes last", 8);
    read_all(pairs);
    tell(pairs, "120");
    tell(pairs, "1");
    wait_for_order("more of the first", 8);
    read_all(pairs);
    tell(pairs, "210");
    for (int i = 0; i < 4; i++)
        wait_for_order("one at a time", 1);
    tell(pairs, "3");
    wait_for_order("two at a time", 2);
    wait_for_order("the others", 2);
    CHECK(read(pairs[1][0], text, 1));
    CHECK(control(EPOLL_CTL_MOD, pairs[1][0], EPOLLIN, 11));
    CHECK(control(EPOLL_CTL_MOD, pairs[3][0], EPOLLIN | EPOLLET, 13));
    tell(pairs, "2");
    wait_for_order("some read, two changed", 8);
    read_all(pairs);
    for (int i = 0; i < QUEUED; i++)
        CHECK(close(pairs[i][0]) + close(pairs[i][1]));
}

static void sockets_in_order(void) {
    in_order(0);
}

static void pipes_in_order(void) {
    in_order(1);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    set = CHECK(epoll_create1(0));
    RUN(by_level);
    RUN(by_edge);
    RUN(room_by_edge);
    RUN(once);
    RUN(closed_descriptors);
    RUN(nested);
    RUN(errors);
    RUN(other_ways_to_wait);
    RUN(with_tcp);
    RUN(sockets_in_order);
    RUN(pipes_in_order);
    return 0;
}
