/* Internet addresses and sockets that are ready to be used. */
#ifndef NETWORK_H
#define NETWORK_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "events.h"

typedef struct sockaddr Address;
typedef struct sockaddr_in Internet;
enum { INTERNET_LENGTH = sizeof(Internet) };

static Internet internet(const char *host, int port) {
    Internet address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    require(inet_pton(AF_INET, host, &address.sin_addr) == 1, "inet_pton");
    return address;
}

/* The address of the machine's own interface, which the test says. */
__attribute__((unused)) static const char *own_address(void) {
    const char *address = getenv("OWN_ADDRESS");
    return address != NULL ? address : "127.0.0.1";
}

__attribute__((unused)) static Internet name_of(int socket) {
    Internet address = {0};
    socklen_t length = sizeof address;
    require(getsockname(socket, (Address *)&address, &length) == 0 && length == INTERNET_LENGTH, "getsockname");
    return address;
}

__attribute__((unused)) static Internet peer_of(int socket) {
    Internet address = {0};
    socklen_t length = sizeof address;
    require(getpeername(socket, (Address *)&address, &length) == 0 && length == INTERNET_LENGTH, "getpeername");
    return address;
}

__attribute__((unused)) static int same_address(Internet left, Internet right) {
    return left.sin_family == right.sin_family && left.sin_port == right.sin_port &&
           left.sin_addr.s_addr == right.sin_addr.s_addr;
}

/* A socket of this type that is bound to a free port. */
__attribute__((unused)) static int bound(int type, const char *host) {
    int file = socket(AF_INET, type, 0);
    Internet address = internet(host, 0);
    require(file >= 0 && bind(file, (Address *)&address, sizeof address) == 0, "bind");
    return file;
}

__attribute__((unused)) static int listening(const char *host) {
    int file = bound(SOCK_STREAM, host);
    require(listen(file, 64) == 0, "listen");
    return file;
}

/* Connects a new TCP socket to what listens. */
__attribute__((unused)) static int connected(int listener) {
    int file = socket(AF_INET, SOCK_STREAM, 0);
    Internet address = name_of(listener);
    if (address.sin_addr.s_addr == htonl(INADDR_ANY))
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    require(file >= 0 && connect(file, (Address *)&address, sizeof address) == 0, "connect");
    return file;
}

/* Both ends of a new TCP connection on the loopback interface. */
__attribute__((unused)) static void connect_pair(int pair[2]) {
    int listener = listening("127.0.0.1");
    pair[0] = connected(listener);
    pair[1] = accept(listener, NULL, NULL);
    require(pair[1] >= 0, "accept");
    close(listener);
}

__attribute__((unused)) static int option(int socket, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(socket, level, name, &value, &length) == 0 ? value : -1;
}

#endif
