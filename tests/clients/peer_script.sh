# What users type, one shell line each, given to pystack and to Docker's own daemon by the same docker client.
# Lines stand on what the lines before them made. `busybox` is loaded; $W is an empty directory of the engine's own.

# version, info
docker version --format '{{.Server.Os}}/{{.Server.Arch}}'
docker info --format '{{.Driver}} {{.OSType}} {{.Architecture}} {{.NCPU}} {{.MemTotal}} {{.Swarm.LocalNodeState}}'
docker info --format '{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}} {{.Images}}'
docker info --format '{{json .Plugins.Volume}} {{.LoggingDriver}} {{.DefaultRuntime}} {{.CgroupVersion}}'
docker info --format '{{json .SecurityOptions}}'

# images
docker images --format '{{.Repository}}:{{.Tag}}' busybox
docker image inspect busybox --format '{{json .Config.Cmd}} {{.Os}} {{.Architecture}} {{.RootFS.Type}} {{len .RootFS.Layers}}'
docker image inspect busybox --format '{{.Id}} {{json .RepoTags}}'
docker image inspect nosuch
docker tag busybox mine:1
docker tag busybox example.test:5000/a/b
docker tag nosuch other
docker tag busybox 'BAD NAME'
docker images -q --no-trunc mine
docker images --filter reference='mi*' --format '{{.Repository}}'
docker images --filter dangling=true
docker images --filter nosuch=1
docker images --filter before=mine:1 --format '{{.Repository}}'
docker rmi example.test:5000/a/b
docker rmi mine:1
docker rmi mine:1
docker rmi nosuch
docker history --format '{{.CreatedBy}} {{.Comment}}' busybox
docker history -q nosuch
docker image ls --format json busybox | wc -l

# run and exit statuses
docker run --rm busybox echo hello
docker run --rm busybox sh -c 'echo out; echo err >&2; exit 7'
docker run --rm busybox nosuch
docker run --rm busybox /etc
docker run --rm nosuch true
docker run --rm busybox sh -c 'kill -9 $$'
docker run --rm busybox sh -c 'kill -TERM $$; sleep 1'
docker run --rm -w /tmp busybox pwd
docker run --rm -w /made/on/demand busybox pwd
docker run --rm -w relative busybox pwd
docker run --rm -e A=1 -e B busybox env
docker run --rm -h box busybox hostname
docker run --rm -h box --domainname example.test busybox cat /etc/hostname
docker run --rm -u 12:34 busybox id
docker run --rm -u nobody busybox sh -c 'id -u; id -g; echo $HOME'
docker run --rm -u nosuchuser busybox id
docker run --rm --group-add 77 --group-add audio busybox id -G
docker run --rm --entrypoint echo busybox one two
docker run --rm --entrypoint '' busybox echo empty
docker run --rm -i busybox cat < /etc/hostname | wc -c
echo text | docker run --rm -i busybox cat
docker run --rm -t busybox sh -c 'tty; stty size' < /dev/null
docker run --rm --init busybox sh -c 'test $$ -gt 1 && echo a child of init'
docker run --rm --read-only busybox touch /x
docker run --rm --read-only --tmpfs /t busybox sh -c 'touch /t/x && echo yes'
docker run --rm --tmpfs /t:size=1m,mode=1777 busybox sh -c 'stat -c %a /t; df -k /t | tail -1 | tr -s " " | cut -d" " -f2'
docker run --rm --shm-size 32m busybox sh -c 'df -k /dev/shm | tail -1 | tr -s " " | cut -d" " -f2'
docker run --rm --cap-drop ALL busybox sh -c 'grep Cap /proc/self/status'
docker run --rm --cap-add SYS_ADMIN busybox sh -c 'grep Cap /proc/self/status'
docker run --rm --cap-add nosuch busybox true
docker run --rm --privileged busybox sh -c 'grep -e CapEff -e Seccomp /proc/self/status'
docker run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status
docker run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status
docker run --rm --security-opt nosuch=1 busybox true
docker run --rm --security-opt systempaths=unconfined busybox sh -c 'ls /proc/acpi | wc -l'
docker run --rm --ulimit nofile=512:1024 busybox sh -c 'ulimit -n; ulimit -Hn'
docker run --rm --ulimit nosuch=1 busybox true
docker run --rm --sysctl net.ipv4.ip_local_port_range='2000 3000' busybox cat /proc/sys/net/ipv4/ip_local_port_range
docker run --rm --sysctl kernel.nosuch=1 busybox true
docker run --rm --network host --sysctl net.ipv4.ip_forward=1 busybox true
docker run --rm --add-host db:10.1.2.3 busybox grep db /etc/hosts
docker run --rm --add-host bad busybox true
docker run --rm --dns 10.9.8.7 --dns-search example.test --dns-option ndots:3 busybox cat /etc/resolv.conf
docker run --rm --network none busybox sh -c 'ip -o link | wc -l'
docker run --rm --mac-address 02:42:ac:11:00:99 busybox cat /sys/class/net/eth0/address
docker run --rm --device /dev/null:/dev/mynull busybox sh -c 'echo x > /dev/mynull && echo ok'
docker run --rm --device /dev/nosuch busybox true
docker run --rm --memory 5m busybox true
docker run --rm --memory 64m busybox cat /sys/fs/cgroup/memory/memory.limit_in_bytes
docker run --rm --memory 64m --memory-swap 32m busybox true
docker run --rm --cpus 99 busybox true
docker run --rm --cpus 0.5 busybox cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us
docker run --rm --cpu-shares 512 busybox cat /sys/fs/cgroup/cpu/cpu.shares
docker run --rm --cpuset-cpus 77 busybox true
docker run --rm --pids-limit 20 busybox cat /sys/fs/cgroup/pids/pids.max
docker run --rm --blkio-weight 5 busybox true
docker run --rm --oom-score-adj 500 busybox cat /proc/self/oom_score_adj
docker run --rm --oom-score-adj 5000 busybox true
docker run --rm --restart always busybox true
docker run --rm --restart sometimes busybox true
docker run --restart on-failure:-1 busybox true
docker run --rm --ipc nosuch busybox true
docker run --rm --pid host busybox sh -c 'test $$ -gt 1 && echo host'
docker run --rm --pid nosuch busybox true
docker run --rm --uts host -h x busybox hostname
docker run --rm --network nosuch busybox true
docker run --rm --network container:nosuch busybox true
docker run --rm --runtime nosuch busybox true
docker run --rm --name 'bad name' busybox true
docker run --rm --stop-signal NOSUCH busybox true
docker run --rm --platform linux/nosuch busybox true
docker run --rm --log-driver nosuch busybox true
docker run --rm --log-opt nosuch=1 busybox true
docker run --rm --label-file /nosuch busybox true
docker run --rm -p 99999:80 busybox true
docker run --rm -p 80/nosuch busybox true
docker run --rm --health-interval 1us busybox true
docker run --rm --storage-opt nosuch=1 busybox true
docker run --rm --volume-driver nosuch -v vd:/v busybox true
docker run --rm --mount type=nosuch,target=/x busybox true
docker run --rm --mount type=bind,source=/nosuch-source,target=/x busybox true
docker run --rm -v /bad:relative busybox true
docker run --rm -v a:b:c:d busybox true
docker run --rm -v $W:/b:ro busybox touch /b/x
docker run --rm -v $W/new:/b busybox sh -c 'echo made > /b/x' && cat $W/new/x
docker run --rm --mount type=tmpfs,target=/t,tmpfs-size=1048576 busybox sh -c 'df -k /t | tail -1 | tr -s " " | cut -d" " -f2'
docker run --rm --mount type=bind,source=$W,target=/b,readonly busybox sh -c 'touch /b/x; echo $?'

# life of a container
docker run -d --name web --label a=b --label c -p 127.0.0.1::80 busybox httpd -f
docker run -d --name web busybox sleep 1
docker ps --format '{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Labels}}'
docker ps --format '{{.Status}}' --filter name=web
docker ps -q --filter status=exited
docker ps --filter label=a=b --format '{{.Names}}'
docker ps --filter label=a=x --format '{{.Names}}'
docker ps --filter ancestor=busybox --format '{{.Names}}'
docker ps --filter nosuch=1
docker ps --filter status=nosuch
docker ps --filter health=none --format '{{.Names}}'
docker ps --filter publish=80 --format '{{.Names}}'
docker ps --filter expose=81 --format '{{.Names}}'
docker port web | sed 's/:[0-9]*$//'
docker port web 81
docker inspect web --format '{{.Name}} {{.Path}} {{json .Args}} {{.State.Status}} {{.State.ExitCode}} {{.RestartCount}} {{.Driver}} {{.Platform}}'
docker inspect web --format '{{json .Config}}'
docker inspect web --format '{{json .HostConfig}}'
docker inspect web --format '{{json .State}}'
docker inspect web --format '{{json .NetworkSettings.Networks}}'
docker inspect web --format '{{json .Mounts}}'
docker inspect nosuch
docker inspect --type container busybox
docker inspect --type image web
docker inspect --size web --format '{{.SizeRw}}'
docker exec web echo inside
docker exec web sh -c 'exit 9'
docker exec web nosuch
docker exec web /etc
docker exec -u 5 -w /tmp -e X=y web sh -c 'id -u; pwd; echo $X'
docker exec -u nosuch web true
docker exec -w /nosuch web true
echo in | docker exec -i web cat
docker exec -t web tty
docker exec -d web touch /detached
docker exec nosuch true
docker exec --privileged web sh -c 'grep CapEff /proc/self/status'
docker top web -o pid,comm | tail -1 | tr -s ' ' | cut -d' ' -f2
docker top web -o user,pid,args | tail -1 | tr -s ' ' | cut -d' ' -f1,3-
docker top web -nosuch
docker top nosuch
docker stats --no-stream --format '{{.Name}} {{.PIDs}}' web
docker stats --no-stream nosuch
docker logs web
docker logs nosuch
docker rename web web2
docker rename web2 'bad name'
docker rename nosuch x
docker rename web2 web
docker pause web
docker pause web
docker exec web true
docker ps --format '{{.State}} {{.Status}}' --filter status=paused
docker stop -t 1 web
docker start web
docker unpause web
docker update --memory 32m --memory-swap 64m web
docker update --memory 1m web
docker update --cpus 0.3 web
docker inspect web --format '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}}'
docker update --restart on-failure:3 web
docker inspect web --format '{{json .HostConfig.RestartPolicy}}'
docker update --memory 32m nosuch
docker kill -s NOSUCH web
docker kill -s 0 web
docker kill -s WINCH web
docker rm web
docker restart -t 0 web
docker kill web
docker kill web
docker wait web
docker inspect web --format '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Error}} {{.State.Pid}}'
docker exec web true
docker attach web
docker stop web
docker rm web
docker rm web
docker start nosuch
docker stop nosuch
docker restart nosuch
docker wait nosuch
docker unpause nosuch
docker create --name made busybox sh -c 'echo from made; exit 3'
docker ps -a --filter name=made --format '{{.Status}} {{.State}}'
docker start -a made
docker start made
docker wait made
docker logs made
docker ps -a --filter exited=3 --format '{{.Names}}'
docker ps -a --filter exited=x
docker logs --tail 1 made
docker logs --tail x made
docker logs --since 1h made
docker logs --until 1h made
docker logs -t made | cut -c11,20,31
docker logs --details made
docker diff made
docker rm -f made nosuch
docker create --name silent --log-driver none busybox echo x
docker start -a silent
docker logs silent
docker rm silent

# health
docker run -d --name well --health-cmd 'test -e /ok' --health-interval 200ms --health-retries 1 busybox sh -c 'touch /ok; sleep 100'
timeout 20 sh -c 'until [ "$(docker inspect -f {{.State.Health.Status}} well)" = healthy ]; do sleep 0.1; done'; docker inspect -f '{{.State.Health.Status}} {{.State.Health.FailingStreak}}' well
docker inspect -f '{{json .Config.Healthcheck}}' well
docker ps --filter health=healthy --format '{{.Names}}'
docker exec well rm /ok
timeout 20 sh -c 'until [ "$(docker inspect -f {{.State.Health.Status}} well)" = unhealthy ]; do sleep 0.1; done'; docker inspect -f '{{(index .State.Health.Log 0).ExitCode}}' well
docker rm -f well

# files
docker run -d --name box busybox sleep 1000
echo content > $W/file; docker cp -q $W/file box:/tmp/file && docker exec box cat /tmp/file
docker cp -q box:/tmp/file $W/back && cat $W/back
docker cp -q box:/etc/passwd - | tar t
docker cp box:/nosuch $W/x
docker cp -q $W/file box:/nosuch/dir/file
docker cp -q $W/nosuch box:/tmp
mkdir -p $W/tree/sub; echo 1 > $W/tree/sub/a; docker cp -q $W/tree box:/tmp/ && docker exec box find /tmp/tree
docker cp -q $W/tree/. box:/tmp/into && docker exec box find /tmp/into
docker exec box ln -s /etc/passwd /tmp/link; docker cp -q box:/tmp/link - | tar tv | grep -o 'link -> .*'
docker cp -q -L box:/tmp/link - | tar t
docker exec box ln -s ../../../../etc /tmp/up; docker cp -q $W/file box:/tmp/up/placed && docker exec box cat /etc/placed
docker diff box | sort
docker export box | tar t | grep -c '^bin/'
docker commit -m note -a me -c 'ENV K=v' -c 'CMD ["true"]' box made:1 | cut -c1-7
docker image inspect made:1 --format '{{json .Config.Env}} {{json .Config.Cmd}} {{.Comment}} {{.Author}} {{len .RootFS.Layers}}'
docker run --rm made:1 cat /tmp/file
docker history --format '{{.Comment}}' made:1 | head -1
docker commit -c 'NOSUCH x' box
docker commit nosuch
docker rmi busybox
docker run --name user made:1 true; docker rmi made:1
docker rm user
docker save made:1 | tar t | grep -c manifest.json
docker save nosuch | wc -c
docker rmi made:1 | grep -c -e Untagged -e Deleted
docker export box | docker import -c 'CMD ["sh"]' -m imported - flat:1 | cut -c1-7
docker image inspect flat:1 --format '{{json .Config.Cmd}} {{.Comment}} {{len .RootFS.Layers}}'
docker run --rm flat:1 cat /tmp/file
docker rmi -f flat:1 | grep -c -e Untagged -e Deleted
docker rm -f box

# networks
docker network ls --format '{{.Name}} {{.Driver}} {{.Scope}}' | sort
docker network create --subnet 10.215.1.0/24 --label x=y net1 | wc -c
docker network create net1
docker network create --subnet 10.215.1.128/25 net2
docker network create --driver nosuch net3
docker network create --subnet bad net3
docker network create --subnet 10.215.2.0/24 --gateway 10.215.9.1 net3
docker network inspect net1 --format '{{.Name}} {{.Driver}} {{json .IPAM.Config}} {{.Internal}} {{.Attachable}} {{json .Labels}} {{json .Options}}'
docker network inspect nosuch
docker run -d --name n1 --network net1 --network-alias first --ip 10.215.1.77 busybox sleep 1000
docker run --rm --network net1 busybox ping -c1 -W2 -q first | tail -2 | head -1
docker run --rm --network net1 busybox nslookup n1 | grep -c 10.215.1.77
docker run --rm --network net1 --ip 10.215.1.77 busybox true
docker run --rm --network net1 --ip 10.1.1.1 busybox true
docker run --rm --ip 172.17.0.99 busybox true
docker run --rm --network container:n1 busybox ip -4 -o addr show eth0 | grep -o '10.215.1.77/24'
docker run --rm --network container:n1 -p 80:80 busybox true
docker run --rm --network container:n1 -h other busybox true
docker network inspect net1 --format '{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}'
docker network rm net1
docker network connect nosuch n1
docker network connect net1 nosuch
docker network connect net1 n1
docker network connect bridge n1
docker exec n1 ls /sys/class/net
docker network disconnect bridge n1
docker network disconnect bridge n1
docker network rm bridge
docker network rm nosuch
docker rm -f n1
docker network ls --filter label=x --format '{{.Name}}'
docker network ls --filter driver=host --format '{{.Name}}'
docker network ls --filter type=nosuch
docker network prune -f
docker network create --internal inner | wc -c
docker run --rm --network inner busybox ip route show default
docker network rm inner

# volumes
docker volume create --label v=1 data
docker volume create data
docker volume create --driver nosuch other
docker volume create 'bad name'
docker volume inspect data --format '{{.Name}} {{.Driver}} {{.Scope}} {{json .Labels}} {{json .Options}}'
docker volume inspect nosuch
docker run --rm -v data:/v busybox sh -c 'echo kept > /v/x'
docker run --rm -v data:/v:ro busybox sh -c 'cat /v/x; touch /v/y'
docker run -d --name holder -v data:/v -v /anon busybox sleep 1000
docker volume rm data
docker volume ls -q --filter name=data
docker volume ls -q --filter dangling=true
docker volume ls -q --filter label=v=1
docker volume ls --filter nosuch=1
docker inspect holder --format '{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}} {{.Mode}};{{end}}'
docker run --rm --volumes-from holder busybox cat /v/x
docker run --rm --volumes-from nosuch busybox true
docker rm -f -v holder
docker volume prune -f
docker volume rm data
docker volume rm data
docker volume rm nosuch

# events, df, prune
docker run --rm --name evented busybox true; sleep 1; docker events --since 60s --until 0s --filter container=evented --format '{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}'
docker events --since 60s --until 0s --filter type=nosuch
docker events --since x
docker system df --format '{{.Type}} {{.TotalCount}} {{.Active}}'
docker run --name old busybox true; docker container prune -f | head -1
docker container prune -f --filter until=24h
docker container prune -f --filter nosuch=1
docker image prune -f
docker system prune -f | tail -1
docker ps -aq

# what is not there
docker swarm leave
docker node ls
docker service ls
docker stack ls
docker secret ls
docker plugin ls
docker checkpoint ls nosuch
