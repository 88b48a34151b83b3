/* Options of sockets that programs set and look at. */
#include <sys/ioctl.h>
#include <sys/time.h>

#include "network.h"

static int set(int socket, int level, int name, int value) {
    return setsockopt(socket, level, name, &value, sizeof value);
}

static void of_every_socket(void) {
    int file = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(option(file, SOL_SOCKET, SO_TYPE));
    CHECK(option(file, SOL_SOCKET, SO_DOMAIN));
    CHECK(option(file, SOL_SOCKET, SO_PROTOCOL));
    CHECK(option(file, SOL_SOCKET, SO_ACCEPTCONN));
    CHECK(option(file, SOL_SOCKET, SO_ERROR));
    CHECK(option(file, SOL_SOCKET, SO_REUSEADDR));
    CHECK(set(file, SOL_SOCKET, SO_REUSEADDR, 1));
    CHECK(option(file, SOL_SOCKET, SO_REUSEADDR));
    CHECK(set(file, SOL_SOCKET, SO_REUSEPORT, 1));
    CHECK(option(file, SOL_SOCKET, SO_REUSEPORT));
    CHECK(set(file, SOL_SOCKET, SO_KEEPALIVE, 7));
    CHECK(option(file, SOL_SOCKET, SO_KEEPALIVE));
    CHECK(set(file, SOL_SOCKET, SO_KEEPALIVE, 0));
    CHECK(option(file, SOL_SOCKET, SO_KEEPALIVE));
    CHECK(set(file, SOL_SOCKET, SO_SNDBUF, 20000));
    CHECK_THAT(option(file, SOL_SOCKET, SO_SNDBUF) >= 20000);
    CHECK(set(file, SOL_SOCKET, SO_RCVBUF, 20000));
    CHECK_THAT(option(file, SOL_SOCKET, SO_RCVBUF) >= 20000);
    CHECK(set(file, SOL_SOCKET, SO_BROADCAST, 1));
    CHECK(option(file, SOL_SOCKET, SO_BROADCAST));
    CHECK(set(file, SOL_SOCKET, SO_TYPE, 1));
    Internet any = internet("127.0.0.1", 0);
    CHECK(bind(file, (Address *)&any, sizeof any));
    CHECK(listen(file, 5));
    CHECK(option(file, SOL_SOCKET, SO_ACCEPTCONN));
    CHECK(close(file));
    file = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(option(file, SOL_SOCKET, SO_TYPE));
    CHECK(option(file, SOL_SOCKET, SO_PROTOCOL));
    CHECK(close(file));
}

static void of_tcp(void) {
    int pair[2];
    connect_pair(pair);
    CHECK(option(pair[0], IPPROTO_TCP, TCP_NODELAY));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_NODELAY, 1));
    CHECK(option(pair[0], IPPROTO_TCP, TCP_NODELAY));
    CHECK(option(pair[1], IPPROTO_TCP, TCP_NODELAY));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_KEEPIDLE, 300));
    CHECK(option(pair[0], IPPROTO_TCP, TCP_KEEPIDLE));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_KEEPINTVL, 10));
    CHECK(option(pair[0], IPPROTO_TCP, TCP_KEEPINTVL));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_KEEPCNT, 4));
    CHECK(option(pair[0], IPPROTO_TCP, TCP_KEEPCNT));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_KEEPCNT, 0));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_USER_TIMEOUT, 5000));
    CHECK(option(pair[0], IPPROTO_TCP, TCP_USER_TIMEOUT));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_CORK, 1));
    CHECK(option(pair[0], IPPROTO_TCP, TCP_CORK));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_CORK, 0));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_QUICKACK, 1));
    CHECK(set(pair[0], IPPROTO_TCP, TCP_DEFER_ACCEPT, 1));
    CHECK_THAT(option(pair[0], IPPROTO_TCP, TCP_MAXSEG) > 500);
    CHECK(set(pair[0], IPPROTO_IP, IP_TOS, 0x10));
    CHECK(option(pair[0], IPPROTO_IP, IP_TOS));
    CHECK(close(pair[0]) + close(pair[1]));
}

static void lingering(void) {
    int file = socket(AF_INET, SOCK_STREAM, 0);
    struct linger linger = {.l_onoff = 9, .l_linger = 9};
    socklen_t length = sizeof linger;
    CHECK(getsockopt(file, SOL_SOCKET, SO_LINGER, &linger, &length));
    CHECK(linger.l_onoff);
    linger = (struct linger){.l_onoff = 1, .l_linger = 5};
    CHECK(setsockopt(file, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    linger.l_linger = 0;
    CHECK(getsockopt(file, SOL_SOCKET, SO_LINGER, &linger, &length));
    CHECK(linger.l_onoff);
    CHECK(linger.l_linger);
    CHECK(length);
    CHECK(setsockopt(file, SOL_SOCKET, SO_LINGER, &linger, 4));
    CHECK(close(file));
}

static void time_limits(void) {
    int pair[2];
    char byte;
    struct timeval limit = {.tv_usec = 20000}, wrong = {.tv_usec = 1000000};
    socklen_t length = sizeof limit;
    connect_pair(pair);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CHECK(recv(pair[0], &byte, 1, 0));
    CHECK(read(pair[0], &byte, 1));
    limit.tv_usec = 0;
    CHECK(getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, &length));
    CHECK_THAT(limit.tv_sec == 0 && limit.tv_usec >= 20000 && limit.tv_usec < 40000);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &wrong, sizeof wrong));
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, 4));
    CHECK(send(pair[1], "x", 1, 0));
    CHECK(recv(pair[0], &byte, 1, 0));
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
    int listener = listening("127.0.0.1");
    CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CHECK(accept(listener, NULL, NULL));
    CHECK(close(pair[0]) + close(pair[1]) + close(listener));
}

static void errors(void) {
    int file = socket(AF_INET, SOCK_STREAM, 0), value = 1, not_a_socket = open("/dev/null", O_RDWR);
    socklen_t length = sizeof value;
    CHECK(setsockopt(file, SOL_SOCKET, SO_REUSEADDR, &value, 1));
    CHECK(setsockopt(file, SOL_SOCKET, 9999, &value, sizeof value));
    CHECK(getsockopt(file, SOL_SOCKET, 9999, &value, &length));
    CHECK(setsockopt(file, IPPROTO_TCP, 9999, &value, sizeof value));
    CHECK(getsockopt(file, IPPROTO_TCP, 9999, &value, &length));
    CHECK(setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &value, 1));
    CHECK(setsockopt(not_a_socket, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value));
    CHECK(getsockopt(not_a_socket, SOL_SOCKET, SO_REUSEADDR, &value, &length));
    CHECK(setsockopt(999, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value));
    length = 2;
    CHECK(getsockopt(file, SOL_SOCKET, SO_TYPE, &value, &length));
    CHECK(length);
    length = 100;
    CHECK(getsockopt(file, SOL_SOCKET, SO_TYPE, &value, &length));
    CHECK(length);
    CHECK(close(file) + close(not_a_socket));
}

static void waiting_data(void) {
    int pair[2], count = -1;
    connect_pair(pair);
    CHECK(send(pair[0], "12345", 5, 0));
    print_events("data", wait_for(pair[1], POLLIN));
    CHECK(ioctl(pair[1], FIONREAD, &count));
    CHECK(count);
    CHECK(ioctl(pair[0], FIONREAD, &count));
    CHECK(count);
    count = 1;
    CHECK(ioctl(pair[0], FIONBIO, &count));
    CHECK(recv(pair[0], &count, 1, 0));
    CHECK(close(pair[0]) + close(pair[1]));
}

int main(void) {
    RUN(of_every_socket);
    RUN(of_tcp);
    RUN(lingering);
    RUN(time_limits);
    RUN(errors);
    RUN(waiting_data);
    return 0;
}
