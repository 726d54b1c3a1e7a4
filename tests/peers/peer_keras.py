"""Keras on TensorFlow, its usual backend: `compile` and `fit` on arrays."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tests.peers.job import LEARNING_RATE, Job, Turns, objective


def autoencoder(job: Job, turns: Turns) -> float:
    _threads(job)
    x, held_out = (_channels_last(job.array(name)) for name in ("train", "held_out"))
    model = _dense() if job.workload == "dense" else _conv()
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss="mse")
    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: turns.begin(), on_epoch_end=lambda epoch, logs: turns.end()
    )
    model.fit(x, x, batch_size=job.batch_size, epochs=job.rounds, verbose=0, callbacks=[callback])
    return float(np.square(model.predict(held_out, verbose=0) - held_out).mean())


def probe(job: Job, turns: Turns) -> float:
    """Softmax regression; every fit starts from a new model."""
    _threads(job)
    features, labels = job.array("train"), job.array("train_labels")
    for _ in range(job.rounds):
        turns.begin()
        dense = layers.Dense(10, kernel_regularizer=keras.regularizers.L2(job.l2 / 2))
        model = keras.Sequential([keras.Input(features.shape[1:]), dense])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=loss)
        model.fit(features, labels, batch_size=job.batch_size, epochs=job.epochs, verbose=0)
        turns.end()
    weight, bias = dense.get_weights()
    return objective(job, weight.T, bias)


def _threads(job: Job) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(job.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _dense() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(128, "relu"),
            layers.Dense(64, "relu"),
            layers.Dense(128, "relu"),
            layers.Dense(784),
            layers.Reshape((28, 28, 1)),
        ]
    )


def _conv() -> keras.Model:
    down, up = [], []
    for _ in range(3):
        down += [layers.Conv2D(64, 3, padding="same", activation="gelu"), layers.AveragePooling2D(2)]
        up += [layers.Conv2DTranspose(64, 3, strides=2, padding="same", activation="gelu")]
    return keras.Sequential([keras.Input((32, 32, 3)), *down, *up, layers.Conv2D(3, 3, padding="same")])
