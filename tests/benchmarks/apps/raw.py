"""What sockets allow: each message that comes is answered, one connection after the other."""

import socket
import sys

ANSWER = bytes(88)  # the size of a C-ECHO-RSP


def main():
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128) as listener:
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while sock.recv(4096):
                    sock.sendall(ANSWER)


if __name__ == "__main__":
    main()
