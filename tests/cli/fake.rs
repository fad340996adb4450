//! A daemon that says what the test wants, over the real control socket.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use baton_daemon::api::control::{Answer, Command, Event, Failure};
use baton_daemon::api::socket::{BoxFuture, Commands, ControlSocket, EventSender, VERSION};
use tokio::sync::watch;

use super::place::Place;

/// What it answers.
type Script = dyn Fn(&Command) -> Vec<Event> + Send + Sync;

/// A fake daemon; ends when it is dropped, or asked to stop.
pub(crate) struct Fake {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<Command>>,
    stop: watch::Sender<bool>,
    gone: watch::Sender<bool>,
}

impl Fake {
    pub(crate) fn start(
        place: &Place,
        script: impl Fn(&Command) -> Vec<Event> + Send + Sync + 'static,
    ) -> Self {
        Self::of_version(place, VERSION, script)
    }

    pub(crate) fn of_version(
        place: &Place,
        version: &'static str,
        script: impl Fn(&Command) -> Vec<Event> + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            stop: watch::Sender::new(false),
            gone: watch::Sender::new(false),
        });
        let (path, commands) = (place.socket(), Arc::clone(&shared));
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(async {
                let socket = ControlSocket::bind(&path).unwrap().with_version(version);
                ready.send(()).unwrap();
                let mut stop = commands.stop.subscribe();
                let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
                socket.serve(commands, stopped).await;
            });
        });
        is_ready.recv().unwrap();
        Self { shared, thread: Some(thread) }
    }

    /// One that answers every command alike.
    pub(crate) fn answering(place: &Place, answer: Answer) -> Self {
        Self::start(place, move |_| vec![done(answer.clone())])
    }

    /// What it was asked.
    pub(crate) fn seen(&self) -> Vec<Command> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until the caller of a script without an end has hung up.
    pub(crate) fn wait_until_gone(&self) {
        let mut gone = self.shared.gone.subscribe();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { drop(gone.wait_for(|gone| *gone).await) });
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

impl Commands for Shared {
    fn run(self: Arc<Self>, command: Command, events: EventSender) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let script = (self.script)(&command);
            let stops = matches!(command, Command::Stop { .. });
            self.seen.lock().unwrap().push(command);
            let ends =
                script.iter().any(|event| matches!(event, Event::Done(_) | Event::Failed(_)));
            for event in script {
                if stops && matches!(event, Event::Done(_)) {
                    self.stop.send_replace(true);
                }
                events.send(event).await;
            }
            // A script without an end is a run that goes on.
            if !ends {
                events.gone().await;
                self.gone.send_replace(true);
            }
        })
    }
}

/// The last event of a success.
pub(crate) fn done(answer: Answer) -> Event {
    Event::Done(Box::new(answer))
}

/// The last event of a failure.
pub(crate) fn failed(code: &str, message: &str, hint: Option<&str>, exit: u8) -> Event {
    let hint = hint.map(str::to_owned);
    Event::Failed(Failure { code: code.into(), message: message.into(), hint, exit })
}
